// The kernels of one instruction set, and the choice among them.
//
// Every function is pure: const inputs, sizes, output last; no allocation, no exception, no global.
// Tensors are channels-last, float[height, width, channels]; `samples` of them lie one behind the
// other, and where no number is named there is one.
// The slow twins stand in kernels/reference.h. Results do not depend on how samples are batched.
#pragma once

#include <span>
#include <string_view>

#include "kernels/shapes.h"

namespace offramp {

struct KernelTable {
  const char* name;  ///< "scalar", "sse2", "avx2", "avx512", "neon"
  int lanes;         ///< floats of a vector
  int tile_columns;  ///< output channels of a register tile; the packing's panel width

  /// y[oh, ow, oc] <- relu?(sum_{kh, kw, ic} x[oh*s - p + kh*d, ow*s - p + kw*d, ic] *
  ///                        w[oc, ic, kh, kw] + bias[oc] + skip[oh, ow, oc])
  /// as an indirect matrix product (Dukhan 2019, "The Indirect Convolution Algorithm"): for each
  /// block of output pixels a table of pointers to input pixels, or to rows of few channels,
  /// replaces im2col's copy; a 1x1 convolution of every pixel needs none. `packed` comes from
  /// pack_conv(); `scratch`, aligned as a Buffer, has conv_scratch_floats() floats. x must not
  /// overlap y; skip may be y.
  using Conv = void (*)(const ConvShape& shape, int samples, const float* x, const float* packed,
                        const Epilogue& epilogue, float* scratch, Part part, float* y);
  Conv conv2d;

  /// The same for 3x3, stride 1, dilation 1 and one group, by Winograd's F(2x2, 3x3), F(4x4, 3x3)
  /// and F(6x6, 3x3) with 2.25, 4 and 5.06 times fewer multiplications and a rounding error that
  /// grows with the tile; `packed` comes from pack_winograd(), `scratch` has
  /// winograd_scratch_floats() floats.
  Conv winograd2, winograd4, winograd6;

  /// The same for shape.depthwise(); `packed` comes from pack_depthwise().
  void (*depthwise_conv2d)(const ConvShape& shape, int samples, const float* x, const float* packed,
                           const Epilogue& epilogue, Part part, float* y);

  /// y[rows, out] <- relu?(x[rows, in] * w[out, in]^T + bias[out] + skip[rows, out]);
  /// `packed` comes from pack_linear().
  void (*linear)(int rows, int in, int out, const float* x, const float* packed,
                 const Epilogue& epilogue, Part part, float* y);

  /// y[pixels, c] <- x[pixels, c] * scale[c] + shift[c]; y may be x.
  void (*batch_norm)(int pixels, int channels, const float* x, const float* scale,
                     const float* shift, float* y);

  /// y <- max(x, 0); y may be x.
  void (*relu)(int count, const float* x, float* y);

  /// y <- relu?(a + b); y may be a or b.
  void (*add)(int count, const float* a, const float* b, bool relu, float* y);

  /// Maximum over the part of each window that lies inside the input.
  void (*max_pool)(const PoolShape& shape, const float* x, float* y);

  /// Sum over the part of each window inside the input, divided as PyTorch's avg_pool2d does.
  void (*average_pool)(const PoolShape& shape, const float* x, float* y);

  /// y[c] <- mean over pixels of x[pixels, c]
  void (*global_average_pool)(int pixels, int channels, const float* x, float* y);

  /// p[i] <- exp(x[i] - max x) / sum_j exp(x[j] - max x); p may be x. NaN or +Inf in x gives NaN.
  void (*softmax)(int count, const float* x, float* p);

  /// Multiplies and adds in registers alone, `rounds` times, as fast as one core can; returns the
  /// multiply-accumulates that was. Reads and writes 12 vectors at `sums`.
  double (*saturate)(int rounds, float* sums);

  /// -sum_i p[i] ln p[i] in nats, with 0 ln 0 = 0; NaN if any p is NaN.
  float (*entropy)(int count, const float* p);
};

/// The tables this machine can run, slowest first; the first is "scalar".
std::span<const KernelTable* const> available_kernels();

/// The table of that name, or nullptr when it is unknown or this machine cannot run it.
const KernelTable* find_kernels(std::string_view name);

/// The last of available_kernels().
const KernelTable& best_kernels();

}  // namespace offramp
