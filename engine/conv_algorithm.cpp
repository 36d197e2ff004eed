#include "engine/conv_algorithm.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

#include "engine/error.h"
#include "kernels/kernels.h"
#include "kernels/packing.h"

namespace offramp {
namespace {

// What things cost in multiply-accumulates at full speed, measured with bench/kernels_bench.cpp and
// `offramp profile` on cores with AVX2 (Zen 3) and AVX-512 (Sapphire Rapids).
struct Prices {
  double product;  ///< a multiply-accumulate: register tiles do not reach full speed
  /// An output of a direct convolution: its pointers and its store.
  double output = 18.0;
  /// A value that Winograd's F(2x2), F(4x4) and F(6x6) transform.
  double transform2, transform4, transform6;
  double near_weight;  ///< a weight on its way from the second-level cache
  /// And one that comes from further away, while products are computed or longer.
  double last_level_weight, memory_weight;
};

// Vectors of 16 multiply twice as fast as those of 8, but load and store hardly faster.
Prices prices(const KernelTable& k) {
  const double width = k.lanes / 8.0;
  const bool wide = k.lanes > 8;
  const double transform = wide ? 1.6 : 1.0;
  return {.product = wide ? 1.3 : 1.15,
          .transform2 = 7.6 * transform,
          .transform4 = 8.3 * transform,
          .transform6 = 12.0 * transform,
          .near_weight = 0.8 * width,
          .last_level_weight = 8.0 * width,
          .memory_weight = 16.0 * width};
}

bool winograd_can(const ConvShape& s) {
  return s.kernel_height == 3 && s.kernel_width == 3 && s.stride_height == 1 &&
         s.stride_width == 1 && s.dilation_height == 1 && s.dilation_width == 1 && s.groups == 1;
}

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

int divide_up(int a, int b) { return (a + b - 1) / b; }

// `products` multiply-accumulates with weights that are read once.
double product_cost(double products, std::size_t weights, WeightsHome home, const Prices& price) {
  const double count = static_cast<double>(weights);
  const double fetch = home == WeightsHome::kNear        ? 0.0
                       : home == WeightsHome::kLastLevel ? price.last_level_weight
                                                         : price.memory_weight;
  return std::max(products * price.product, fetch * count) + price.near_weight * count;
}

double direct_cost(const ConvShape& s, int samples, WeightsHome home, const KernelTable& k) {
  const Prices price = prices(k);
  const double outputs = static_cast<double>(samples) * s.out_pixels() *
                         round_up(s.group_out(), k.tile_columns) * s.groups;
  return outputs * price.output + product_cost(outputs * s.taps() * s.group_in(),
                                               conv_weight_floats(ConvPath::kDirect, s, k), home,
                                               price);
}

// Channels that do not fill a vector are transformed one by one.
int transformed(int channels, const KernelTable& k) {
  return (channels / k.lanes + channels % k.lanes) * k.lanes;
}

double winograd_cost(ConvPath path, const ConvShape& s, int samples, WeightsHome home,
                     const KernelTable& k) {
  const Prices price = prices(k);
  const int tile = winograd_tile(path);
  const double points = (tile + 2) * (tile + 2);
  const double patches =
      static_cast<double>(samples) * divide_up(s.out_height, tile) * divide_up(s.out_width, tile);
  const double products =
      patches * points * s.in_channels * round_up(s.out_channels, k.tile_columns);
  const double values =
      patches * points * (transformed(s.in_channels, k) + transformed(s.out_channels, k));
  const double transform = tile == 2   ? price.transform2
                           : tile == 4 ? price.transform4
                                       : price.transform6;
  return values * transform + product_cost(products, conv_weight_floats(path, s, k), home, price);
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

std::size_t conv_weight_floats(ConvPath path, const ConvShape& shape, const KernelTable& kernels) {
  const int tile = winograd_tile(path);
  if (tile != 0) return packed_winograd_floats(shape, tile, kernels.tile_columns);
  if (path == ConvPath::kDepthwise) return packed_depthwise_floats(shape);
  return packed_conv_floats(shape, kernels.tile_columns);
}

double conv_cost(ConvPath path, const ConvShape& shape, int samples, WeightsHome home,
                 const KernelTable& kernels) {
  assert(path == ConvPath::kDirect || winograd_can(shape));
  if (path == ConvPath::kDirect) return direct_cost(shape, samples, home, kernels);
  return winograd_cost(path, shape, samples, home, kernels);
}

ConvPath choose_conv_path(ConvAlgorithm algorithm, const ConvShape& shape, int samples,
                          WeightsHome home, const KernelTable& kernels) {
  if (shape.depthwise()) return ConvPath::kDepthwise;
  if (algorithm == ConvAlgorithm::kIm2col) return ConvPath::kIm2col;
  if (!winograd_can(shape)) return ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kWinograd2) return ConvPath::kWinograd2;
  if (algorithm == ConvAlgorithm::kWinograd4) return ConvPath::kWinograd4;
  if (algorithm == ConvAlgorithm::kWinograd6) return ConvPath::kWinograd6;
  ConvPath best = ConvPath::kDirect;
  if (algorithm == ConvAlgorithm::kDirect) return best;
  const auto cost = [&](ConvPath path) { return conv_cost(path, shape, samples, home, kernels); };
  for (ConvPath path : {ConvPath::kWinograd2, ConvPath::kWinograd4, ConvPath::kWinograd6}) {
    if (cost(path) < cost(best)) best = path;
  }
  return best;
}

}  // namespace offramp
