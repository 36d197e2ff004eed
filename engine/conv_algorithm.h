// How convolutions are computed, and which way is expected to be the fastest for a layer.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "kernels/shapes.h"

namespace offramp {

struct KernelTable;

/// What a user may ask for. Layers that an algorithm cannot do are done by kDirect.
enum class ConvAlgorithm {
  kAuto,       ///< the one that a cost model expects to be fastest, layer by layer
  kDirect,     ///< indirect matrix product
  kWinograd2,  ///< F(2x2, 3x3), for 3x3 kernels with stride 1
  kWinograd4,  ///< F(4x4, 3x3)
  kWinograd6,  ///< F(6x6, 3x3)
  kIm2col,     ///< im2col + OpenBLAS, also for linear layers
};

/// "auto", "direct", "winograd2", "winograd4", "winograd6", "im2col"; throws Error{kUsage} for
/// anything else.
ConvAlgorithm parse_conv_algorithm(const std::string& name);
const char* to_string(ConvAlgorithm algorithm);

/// What a layer is computed with.
enum class ConvPath { kDirect, kWinograd2, kWinograd4, kWinograd6, kDepthwise, kIm2col };
const char* to_string(ConvPath path);

/// The path of that name; nothing for an unknown one.
std::optional<ConvPath> parse_conv_path(const std::string& name);

/// 2, 4 or 6 for Winograd's paths, otherwise 0.
int winograd_tile(ConvPath path);

/// Whether `path` can do a convolution of this shape.
bool can_compute(ConvPath path, const ConvShape& shape);

/// Where the weights of a network are when they are needed again: in the second-level cache, in
/// the last one, or in memory.
enum class WeightsHome { kNear, kLastLevel, kMemory };

/// What a user's wish comes to for a layer that computes `samples` samples at a time.
ConvPath choose_conv_path(ConvAlgorithm algorithm, const ConvShape& shape, int samples,
                          WeightsHome home, const KernelTable& kernels);

/// Floats of the weights that `path` reads; kIm2col, which fills up no panels, reads as many or
/// less.
std::size_t conv_weight_floats(ConvPath path, const ConvShape& shape, const KernelTable& kernels);

/// Expected time of `samples` samples, in multiply-accumulates at the speed that no kernel exceeds.
/// `path` must be kDirect or one of Winograd's that can.
double conv_cost(ConvPath path, const ConvShape& shape, int samples, WeightsHome home,
                 const KernelTable& kernels);

}  // namespace offramp
