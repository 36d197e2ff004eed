// net/tensor_codec.h: bits survive, sizes come from the receiver, NaN and Inf stay out.
#include "net/tensor_codec.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace offramp {
namespace {

constexpr Shape kShape{.channels = 3, .height = 2, .width = 5};

std::vector<float> awkward_values() {
  std::vector<float> values(kShape.elements(), 1.0f);
  values[0] = -0.0f;
  values[1] = std::numeric_limits<float>::denorm_min();
  values[2] = std::numeric_limits<float>::max();
  values[3] = std::numeric_limits<float>::lowest();
  values.back() = 0.1f;
  return values;
}

std::vector<std::uint8_t> encoded(const std::vector<float>& values) {
  return encode_tensor({.data = values.data(), .batch = 1, .shape = kShape}, DType::kF32,
                       Codec::kRaw);
}

}  // namespace

TEST_CASE("tensor codec: f32 keeps every bit") {
  const std::vector<float> values = awkward_values();
  std::vector<float> out(values.size());
  CHECK(!decode_tensor(encoded(values), DType::kF32, Codec::kRaw, kShape, out));
  CHECK(std::memcmp(values.data(), out.data(), values.size() * sizeof(float)) == 0);
}

TEST_CASE("tensor codec: elements are little-endian, channels last") {
  const float values[] = {1.0f, -2.0f};
  const Shape shape{.channels = 2, .height = 1, .width = 1};
  const auto payload =
      encode_tensor({.data = values, .batch = 1, .shape = shape}, DType::kF32, Codec::kRaw);
  CHECK(payload == std::vector<std::uint8_t>{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0});
}

TEST_CASE("tensor codec: any other size is refused") {
  auto payload = encoded(awkward_values());
  std::vector<float> out(kShape.elements());
  for (const std::size_t size : {std::size_t{0}, payload.size() - 4, payload.size() - 1}) {
    const std::span<const std::uint8_t> part(payload.data(), size);
    CHECK(decode_tensor(part, DType::kF32, Codec::kRaw, kShape, out) == TensorError::kSize);
  }
  payload.push_back(0);
  CHECK(decode_tensor(payload, DType::kF32, Codec::kRaw, kShape, out) == TensorError::kSize);
}

TEST_CASE("tensor codec: NaN and Inf are refused wherever they are") {
  std::vector<float> out(kShape.elements());
  for (const float bad : {std::nanf(""), -std::nanf(""), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (std::size_t i = 0; i < kShape.elements(); ++i) {
      std::vector<float> values = awkward_values();
      values[i] = bad;
      CHECK(decode_tensor(encoded(values), DType::kF32, Codec::kRaw, kShape, out) ==
            TensorError::kNotFinite);
    }
  }
}

TEST_CASE("tensor codec: sizes that overflow or make no sense have no bytes") {
  CHECK(raw_bytes(kShape, DType::kF32) == std::size_t{120});
  CHECK(!raw_bytes({.channels = 0, .height = 1, .width = 1}, DType::kF32));
  CHECK(!raw_bytes({.channels = -1, .height = -1, .width = 1}, DType::kF32));
  constexpr int kLarge = std::numeric_limits<int>::max();
  CHECK(!raw_bytes({.channels = kLarge, .height = kLarge, .width = kLarge}, DType::kF32));
}

}  // namespace offramp
