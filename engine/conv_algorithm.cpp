#include "engine/conv_algorithm.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

#include "engine/error.h"
#include "kernels/kernels.h"
#include "kernels/packing.h"

namespace offramp {
namespace {

// What things cost in multiply-accumulates of a convolution at full speed, measured with
// bench/kernels_bench.cpp and `offramp profile` on a core with AVX2. An output of a direct
// convolution: its pointers and its store.
constexpr double kOutput = 18.0;
// A value that Winograd's F(2x2), F(4x4) and F(6x6) transform.
constexpr double kTransform2 = 7.6, kTransform4 = 8.3, kTransform6 = 12.0;
// A weight that comes from a second-level cache; and from memory, where that takes longer than the
// arithmetic beside which it is fetched. For vectors of 8: wider ones multiply faster, but load at
// the same speed.
constexpr double kNearWeight = 0.8;
constexpr double kFarWeight = 9.3;
constexpr double kFarFloats = 256 * 1024;  // 1 MiB

bool winograd_can(const ConvShape& s) {
  return s.kernel_height == 3 && s.kernel_width == 3 && s.stride_height == 1 &&
         s.stride_width == 1 && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1;
}

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

int divide_up(int a, int b) { return (a + b - 1) / b; }

// `products` multiply-accumulates with weights that are read once.
double product_cost(double products, std::size_t weights, const KernelTable& k) {
  const double count = static_cast<double>(weights) * k.lanes / 8.0;
  const double far = static_cast<double>(weights) > kFarFloats ? kFarWeight * count : 0.0;
  return std::max(products, far) + kNearWeight * count;
}

double direct_cost(const ConvShape& s, int samples, const KernelTable& k) {
  const double outputs = static_cast<double>(samples) * s.out_pixels() *
                         round_up(s.group_out(), k.tile_columns) * s.groups;
  return outputs * kOutput +
         product_cost(outputs * s.taps() * s.group_in(), packed_conv_floats(s, k.tile_columns), k);
}

// Channels that do not fill a vector are transformed one by one.
int transformed(int channels, const KernelTable& k) {
  return (channels / k.lanes + channels % k.lanes) * k.lanes;
}

double winograd_cost(const ConvShape& s, int samples, const KernelTable& k, int tile) {
  const double points = (tile + 2) * (tile + 2);
  const double patches =
      static_cast<double>(samples) * divide_up(s.out_height, tile) * divide_up(s.out_width, tile);
  const double products =
      patches * points * s.in_channels * round_up(s.out_channels, k.tile_columns);
  const double values =
      patches * points * (transformed(s.in_channels, k) + transformed(s.out_channels, k));
  const double transform = tile == 2 ? kTransform2 : tile == 4 ? kTransform4 : kTransform6;
  return values * transform +
         product_cost(products, packed_winograd_floats(s, tile, k.tile_columns), k);
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
    case ConvAlgorithm::kWinograd6:
      return "winograd6";
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
    case ConvPath::kWinograd6:
      return "winograd6";
    case ConvPath::kDepthwise:
      return "depthwise";
    case ConvPath::kIm2col:
      return "im2col";
  }
  return "";
}

int winograd_tile(ConvPath path) {
  switch (path) {
    case ConvPath::kWinograd2:
      return 2;
    case ConvPath::kWinograd4:
      return 4;
    case ConvPath::kWinograd6:
      return 6;
    default:
      return 0;
  }
}

ConvAlgorithm parse_conv_algorithm(const std::string& name) {
  std::string known;
  for (ConvAlgorithm algorithm :
       {ConvAlgorithm::kAuto, ConvAlgorithm::kDirect, ConvAlgorithm::kWinograd2,
        ConvAlgorithm::kWinograd4, ConvAlgorithm::kWinograd6, ConvAlgorithm::kIm2col}) {
    if (name == to_string(algorithm)) return algorithm;
    known += (known.empty() ? "" : ", ") + std::string(to_string(algorithm));
  }
  throw Error(ErrorKind::kUsage,
              "convolution algorithm: wanted one of " + known + ", found \"" + name + "\"");
}

std::optional<ConvPath> parse_conv_path(const std::string& name) {
  for (ConvPath path : {ConvPath::kDirect, ConvPath::kWinograd2, ConvPath::kWinograd4,
                        ConvPath::kWinograd6, ConvPath::kDepthwise, ConvPath::kIm2col}) {
    if (name == to_string(path)) return path;
  }
  return std::nullopt;
}

bool can_compute(ConvPath path, const ConvShape& shape) {
  if (path == ConvPath::kDepthwise || shape.depthwise()) {
    return path == ConvPath::kDepthwise && shape.depthwise();
  }
  return winograd_tile(path) == 0 || winograd_can(shape);
}

double conv_cost(ConvPath path, const ConvShape& shape, int samples, const KernelTable& kernels) {
  assert(path == ConvPath::kDirect || winograd_can(shape));
  if (path == ConvPath::kDirect) return direct_cost(shape, samples, kernels);
  return winograd_cost(shape, samples, kernels, winograd_tile(path));
}

ConvPath choose_conv_path(ConvAlgorithm algorithm, const ConvShape& shape, int samples,
                          const KernelTable& kernels) {
  if (shape.depthwise()) return ConvPath::kDepthwise;
  if (algorithm == ConvAlgorithm::kIm2col) return ConvPath::kIm2col;
  if (!winograd_can(shape)) return ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kWinograd2) return ConvPath::kWinograd2;
  if (algorithm == ConvAlgorithm::kWinograd4) return ConvPath::kWinograd4;
  if (algorithm == ConvAlgorithm::kWinograd6) return ConvPath::kWinograd6;
  ConvPath best = ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kDirect) return best;
  for (ConvPath path : {ConvPath::kWinograd2, ConvPath::kWinograd4, ConvPath::kWinograd6}) {
    if (conv_cost(path, shape, samples, kernels) < conv_cost(best, shape, samples, kernels)) {
      best = path;
    }
  }
  return best;
}

}  // namespace offramp
