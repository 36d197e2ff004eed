#include "engine/conv_algorithm.h"

#include <cassert>
#include <cstddef>

#include "engine/error.h"
#include "kernels/kernels.h"
#include "kernels/packing.h"

namespace offramp {
namespace {

// Measured on a core with AVX2 and one with AVX-512 (bench/kernels_bench.cpp): what it costs to
// take a weight from a second-level cache, or from behind it, and to transform one value.
constexpr double kNearWeight = 2.0;
constexpr double kFarWeight = 8.0;
constexpr double kTransform = 6.0;
constexpr double kNearFloats = 256 * 1024;  // 1 MiB

bool winograd_can(const ConvShape& s) {
  return s.kernel_height == 3 && s.kernel_width == 3 && s.stride_height == 1 &&
         s.stride_width == 1 && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1;
}

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

double weight_cost(std::size_t floats) {
  const double count = static_cast<double>(floats);
  return count * (count <= kNearFloats ? kNearWeight : kFarWeight);
}

double direct_cost(const ConvShape& s, const KernelTable& k) {
  const double sums = static_cast<double>(round_up(s.out_pixels(), k.tile_rows)) *
                      round_up(s.group_out(), k.tile_columns) * s.groups;
  return sums * s.taps() * s.group_in() + weight_cost(packed_conv_floats(s, k.tile_columns));
}

double winograd_cost(const ConvShape& s, const KernelTable& k, int tile) {
  const int points = (tile + 2) * (tile + 2);
  const int patches = ((s.out_height + tile - 1) / tile) * ((s.out_width + tile - 1) / tile);
  const int columns = round_up(s.out_channels, k.tile_columns);
  const double products =
      static_cast<double>(round_up(patches, k.tile_rows)) * points * s.in_channels * columns;
  const double transforms = static_cast<double>(patches) * points * (s.in_channels + columns);
  return products + kTransform * transforms +
         weight_cost(packed_winograd_floats(s, tile, k.tile_columns));
}

}  // namespace

const char* to_string(ConvAlgorithm algorithm) {
  switch (algorithm) {
    case ConvAlgorithm::kAuto:
      return "auto";
    case ConvAlgorithm::kDirect:
      return "direct";
    case ConvAlgorithm::kWinograd2:
      return "winograd2";
    case ConvAlgorithm::kWinograd4:
      return "winograd4";
    case ConvAlgorithm::kIm2col:
      return "im2col";
  }
  return "";
}

const char* to_string(ConvPath path) {
  switch (path) {
    case ConvPath::kDirect:
      return "direct";
    case ConvPath::kWinograd2:
      return "winograd2";
    case ConvPath::kWinograd4:
      return "winograd4";
    case ConvPath::kDepthwise:
      return "depthwise";
    case ConvPath::kIm2col:
      return "im2col";
  }
  return "";
}

ConvAlgorithm parse_conv_algorithm(const std::string& name) {
  std::string known;
  for (ConvAlgorithm algorithm :
       {ConvAlgorithm::kAuto, ConvAlgorithm::kDirect, ConvAlgorithm::kWinograd2,
        ConvAlgorithm::kWinograd4, ConvAlgorithm::kIm2col}) {
    if (name == to_string(algorithm)) return algorithm;
    known += (known.empty() ? "" : ", ") + std::string(to_string(algorithm));
  }
  throw Error(ErrorKind::kUsage,
              "convolution algorithm: wanted one of " + known + ", found \"" + name + "\"");
}

double conv_cost(ConvPath path, const ConvShape& shape, const KernelTable& kernels) {
  assert(path == ConvPath::kDirect || winograd_can(shape));
  if (path == ConvPath::kDirect) return direct_cost(shape, kernels);
  return winograd_cost(shape, kernels, path == ConvPath::kWinograd2 ? 2 : 4);
}

ConvPath choose_conv_path(ConvAlgorithm algorithm, const ConvShape& shape,
                          const KernelTable& kernels) {
  if (shape.depthwise()) return ConvPath::kDepthwise;
  if (algorithm == ConvAlgorithm::kIm2col) return ConvPath::kIm2col;
  if (!winograd_can(shape)) return ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kWinograd2) return ConvPath::kWinograd2;
  if (algorithm == ConvAlgorithm::kWinograd4) return ConvPath::kWinograd4;
  ConvPath best = ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kDirect) return best;
  for (ConvPath path : {ConvPath::kWinograd2, ConvPath::kWinograd4}) {
    if (conv_cost(path, shape, kernels) < conv_cost(best, shape, kernels)) best = path;
  }
  return best;
}

}  // namespace offramp
