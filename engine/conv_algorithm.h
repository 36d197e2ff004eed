// How convolutions are computed, and which way is expected to be the fastest for a layer.
#pragma once

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
  kIm2col,     ///< im2col + OpenBLAS, also for linear layers
};

/// "auto", "direct", "winograd2", "winograd4", "im2col"; throws Error{kUsage} for anything else.
ConvAlgorithm parse_conv_algorithm(const std::string& name);
const char* to_string(ConvAlgorithm algorithm);

/// What a layer is computed with.
enum class ConvPath { kDirect, kWinograd2, kWinograd4, kDepthwise, kIm2col };
const char* to_string(ConvPath path);

ConvPath choose_conv_path(ConvAlgorithm algorithm, const ConvShape& shape,
                          const KernelTable& kernels);

/// Expected time of one sample, in multiply-accumulates of a convolution that runs at full speed.
/// `path` must be kDirect or one of Winograd's.
double conv_cost(ConvPath path, const ConvShape& shape, const KernelTable& kernels);

}  // namespace offramp
