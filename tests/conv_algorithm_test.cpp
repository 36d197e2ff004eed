#include "engine/conv_algorithm.h"

#include <doctest/doctest.h>

#include <string>

#include "engine/error.h"
#include "kernels/kernels.h"

using namespace offramp;

namespace {

ConvShape square(int channels, int side, int stride = 1) {
  ConvShape s{channels, side, side, channels, side / stride, side / stride, 3, 3, stride, stride};
  s.pad_height = s.pad_width = 1;
  return s;
}

std::string chosen(ConvAlgorithm algorithm, const ConvShape& s) {
  return to_string(choose_conv_path(algorithm, s, 1, WeightsHome::kNear, best_kernels()));
}

}  // namespace

TEST_CASE("names of algorithms are read back, others are refused with the list") {
  for (const char* name : {"auto", "direct", "winograd2", "winograd4", "winograd6", "im2col"}) {
    CHECK(std::string(to_string(parse_conv_algorithm(name))) == name);
  }
  CHECK_THROWS_WITH_AS(parse_conv_algorithm("fft"),
                       doctest::Contains("winograd6, im2col, found \"fft\""), Error);
}

TEST_CASE("auto takes larger Winograd tiles where patches are many and weights few or near") {
  for (const KernelTable* kernels : available_kernels()) {
    INFO(kernels->name);
    const auto tile = [&](const ConvShape& s, WeightsHome home) {
      return winograd_tile(choose_conv_path(ConvAlgorithm::kAuto, s, 1, home, *kernels));
    };
    CHECK(tile(square(16, 32), WeightsHome::kNear) >= 4);
    CHECK(tile(square(64, 56), WeightsHome::kMemory) >= 4);
    // 4 patches of 4x4 against 9.4 million transformed weights, which wide vectors wait for.
    if (kernels->lanes >= 8) CHECK(tile(square(512, 7), WeightsHome::kMemory) <= 2);
    for (const int side : {4, 8, 16, 32}) {
      CHECK(tile(square(64, side), WeightsHome::kMemory) <=
            tile(square(64, side), WeightsHome::kNear));
    }
  }
}

TEST_CASE("layers that an algorithm cannot do fall back") {
  ConvShape depthwise = square(16, 8);
  depthwise.groups = 16;
  ConvShape grouped = square(16, 8);
  grouped.groups = 2;
  for (ConvAlgorithm algorithm : {ConvAlgorithm::kAuto, ConvAlgorithm::kWinograd2,
                                  ConvAlgorithm::kWinograd4, ConvAlgorithm::kWinograd6}) {
    CHECK(chosen(algorithm, square(16, 8, 2)) == "direct");
    CHECK(chosen(algorithm, grouped) == "direct");
    CHECK(chosen(algorithm, depthwise) == "depthwise");
  }
  CHECK(chosen(ConvAlgorithm::kIm2col, square(16, 8, 2)) == "im2col");
  CHECK(chosen(ConvAlgorithm::kIm2col, depthwise) == "depthwise");
  CHECK(chosen(ConvAlgorithm::kDirect, square(16, 32)) == "direct");
}
