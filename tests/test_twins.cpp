#include "tests/test_twins.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/overloaded.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"

namespace offramp::test {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

float largest(std::span<const float> values) {
  float most = 0.0f;
  for (float v : values) most = std::max(most, std::abs(v));
  return most;
}

float largest_row(std::span<const float> weight, std::size_t rows) {
  const std::size_t columns = weight.size() / rows;
  double most = 0.0;
  for (std::size_t r = 0; r < rows; ++r) {
    double sum = 0.0;
    for (float w : weight.subspan(r * columns, columns)) sum += static_cast<double>(w) * w;
    most = std::max(most, sum);
  }
  return static_cast<float>(std::sqrt(most));
}

}  // namespace

std::vector<PlanOptions> all_options(int max_batch) {
  std::vector<PlanOptions> all;
  for (const KernelTable* table : available_kernels()) {
    for (ConvAlgorithm algorithm :
         {ConvAlgorithm::kAuto, ConvAlgorithm::kDirect, ConvAlgorithm::kWinograd2,
          ConvAlgorithm::kWinograd4, ConvAlgorithm::kWinograd6}) {
      all.push_back({.kernels = table, .convolution = algorithm, .max_batch = max_batch});
    }
  }
  all.push_back({.convolution = ConvAlgorithm::kIm2col, .max_batch = max_batch});
  return all;
}

// From how far its inputs are off: rounding errors are taken as independent (Higham and Mary 2019),
// so a row w of weights turns an error e into |w|_2 e and adds sqrt(K) eps |w|_2 max|x| of its own.
std::vector<float> error_bounds(const Graph& graph, const Values& values, float growth) {
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  std::vector<float> error(graph.values.size(), 0.0f);
  for (const Layer& layer : graph.layers) {
    float in = 0.0f, sum = 0.0f;
    for (ValueId id : layer.inputs) {
      in = std::max(in, error[at(id)]);
      sum += error[at(id)];
    }
    const float x = largest(values[at(layer.inputs[0])]), y = largest(values[at(layer.output)]);
    const auto rows = [&](std::span<const float> weight, int out) {
      const float norm = largest_row(weight, at(out));
      const std::size_t columns = weight.size() / at(out);
      const float terms = static_cast<float>(columns);
      return norm * (in + growth * std::sqrt(terms) * kEpsilon * x);
    };
    error[at(layer.output)] =
        kEpsilon * y +
        std::visit(Overloaded{
                       [&](const Conv2d& o) { return rows(o.weight, o.out_channels); },
                       [&](const Linear& o) { return rows(o.weight, o.out_features); },
                       [&](const BatchNorm& o) {
                         // weight <= 1.5 and variance >= 0.5 in random networks
                         return o.mean.empty() ? in : 2.2f * (in + kEpsilon * x);
                       },
                       [&](const Add&) { return sum; },
                       [&](const auto&) { return in; },
                   },
                   layer.op);
  }
  // Largest of many independent errors, each a few standard deviations.
  for (float& e : error) e *= 8.0f;
  return error;
}

// Winograd's transforms add terms of different size before they cancel; F(4x4) has shown 15 times
// the error of the direct sum on random data (bench/kernels_bench.cpp measures it).
float error_growth(ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::kWinograd6) return 256.0f;
  return algorithm == ConvAlgorithm::kDirect || algorithm == ConvAlgorithm::kIm2col ? 1.0f : 32.0f;
}

void check_close(std::span<const float> found, std::span<const float> wanted, float tolerance) {
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(found[i] - wanted[i]) <= tolerance)) {
      INFO("at ", i, ": found ", found[i], ", wanted ", wanted[i], ", tolerance ", tolerance);
      CHECK(false);
      return;
    }
  }
}

std::vector<float> channels_last(const Shape& shape, const std::vector<float>& value) {
  std::vector<float> y(value.size());
  to_channels_last(shape.channels, shape.height, shape.width, value.data(), y.data());
  return y;
}

}  // namespace offramp::test
