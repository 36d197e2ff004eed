#include "kernels/blas.h"

#include <cblas.h>

#include <algorithm>

namespace offramp::blas {
namespace {

// The threads belong to the engine and the node. OpenBLAS may have started some of its own when it
// was loaded; they stay asleep.
void use_one_thread() {
  static const bool done = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

// y[rows, cols of pitch] <- relu?(y + bias); the skip is already in y.
void finish(int rows, int columns, int pitch, const Epilogue& e, int column, float* y) {
  for (int r = 0; r < rows; ++r, y += pitch) {
    for (int c = 0; c < columns; ++c) {
      float value = y[c] + (e.bias ? e.bias[column + c] : 0.0f);
      y[c] = e.relu && value < 0.0f ? 0.0f : value;
    }
  }
}

// unfolded[pixel][kh][kw][ic] <- the input that the group's weights see; zero in the padding.
void im2col(const ConvShape& s, int first_channel, const float* x, float* unfolded) {
  for (int oy = 0; oy < s.out_height; ++oy) {
    for (int ox = 0; ox < s.out_width; ++ox) {
      for (int kh = 0; kh < s.kernel_height; ++kh) {
        const int iy = oy * s.stride_height - s.pad_height + kh * s.dilation_height;
        for (int kw = 0; kw < s.kernel_width; ++kw) {
          const int ix = ox * s.stride_width - s.pad_width + kw * s.dilation_width;
          if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) {
            unfolded = std::fill_n(unfolded, s.group_in(), 0.0f);
          } else {
            const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(iy) * s.in_width + ix;
            unfolded =
                std::copy_n(x + pixel * s.in_channels + first_channel, s.group_in(), unfolded);
          }
        }
      }
    }
  }
}

}  // namespace

void pack_conv(const ConvShape& s, const float* weight, float* matrix) {
  for (int g = 0; g < s.groups; ++g) {
    for (int tap = 0; tap < s.taps(); ++tap) {
      for (int ic = 0; ic < s.group_in(); ++ic) {
        for (int oc = 0; oc < s.group_out(); ++oc) {
          const std::size_t row = static_cast<std::size_t>(g * s.group_out() + oc);
          *matrix++ =
              weight[(row * static_cast<std::size_t>(s.group_in()) + static_cast<std::size_t>(ic)) *
                         static_cast<std::size_t>(s.taps()) +
                     static_cast<std::size_t>(tap)];
        }
      }
    }
  }
}

std::size_t conv_scratch_floats(const ConvShape& s) {
  return static_cast<std::size_t>(s.out_pixels()) * static_cast<std::size_t>(s.taps()) *
         static_cast<std::size_t>(s.group_in());
}

void conv2d(const ConvShape& s, const float* x, const float* matrix, const Epilogue& e,
            float* scratch, float* y) {
  use_one_thread();
  if (e.skip && e.skip != y) {
    std::copy_n(e.skip, static_cast<std::ptrdiff_t>(s.out_pixels()) * s.out_channels, y);
  }
  const int depth = s.taps() * s.group_in();
  const bool unfolded_already = s.taps() == 1 && s.stride_height == 1 && s.stride_width == 1 &&
                                s.pad_height == 0 && s.pad_width == 0;
  for (int g = 0; g < s.groups; ++g) {
    const float* input = x + g * s.group_in();
    if (!unfolded_already) {
      im2col(s, g * s.group_in(), x, scratch);
      input = scratch;
    }
    float* out = y + g * s.group_out();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, s.out_pixels(), s.group_out(), depth,
                1.0f, input, unfolded_already ? s.in_channels : depth, matrix, s.group_out(),
                e.skip ? 1.0f : 0.0f, out, s.out_channels);
    finish(s.out_pixels(), s.group_out(), s.out_channels, e, g * s.group_out(), out);
    matrix += static_cast<std::ptrdiff_t>(depth) * s.group_out();
  }
}

void linear(int in, int out, const float* x, const float* weight, const Epilogue& e, float* y) {
  use_one_thread();
  if (e.skip && e.skip != y) std::copy_n(e.skip, out, y);
  cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1.0f, weight, in, x, 1, e.skip ? 1.0f : 0.0f, y,
              1);
  finish(1, out, out, e, 0, y);
}

}  // namespace offramp::blas
