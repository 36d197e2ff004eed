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
  return to_string(choose_conv_path(algorithm, s, 1, best_kernels()));
}

}  // namespace

TEST_CASE("names of algorithms are read back, others are refused with the list") {
  for (const char* name : {"auto", "direct", "winograd2", "winograd4", "winograd6", "im2col"}) {
    CHECK(std::string(to_string(parse_conv_algorithm(name))) == name);
  }
  CHECK_THROWS_WITH_AS(parse_conv_algorithm("fft"),
                       doctest::Contains("winograd6, im2col, found \"fft\""), Error);
}

TEST_CASE("auto takes the larger Winograd tile where patches are many and weights few") {
  CHECK(chosen(ConvAlgorithm::kAuto, square(16, 32)) == "winograd4");
  CHECK(chosen(ConvAlgorithm::kAuto, square(64, 56)) == "winograd4");
  // 4 patches against 9.4 million transformed weights.
  CHECK(chosen(ConvAlgorithm::kAuto, square(512, 7)) != "winograd4");
}

TEST_CASE("layers that an algorithm cannot do fall back") {
  ConvShape depthwise = square(16, 8);
  depthwise.groups = 16;
  ConvShape grouped = square(16, 8);
  grouped.groups = 2;
  for (ConvAlgorithm algorithm :
       {ConvAlgorithm::kAuto, ConvAlgorithm::kWinograd2, ConvAlgorithm::kWinograd4}) {
    CHECK(chosen(algorithm, square(16, 8, 2)) == "direct");
    CHECK(chosen(algorithm, grouped) == "direct");
    CHECK(chosen(algorithm, depthwise) == "depthwise");
  }
  CHECK(chosen(ConvAlgorithm::kIm2col, square(16, 8, 2)) == "im2col");
  CHECK(chosen(ConvAlgorithm::kIm2col, depthwise) == "depthwise");
  CHECK(chosen(ConvAlgorithm::kDirect, square(16, 32)) == "direct");
}
