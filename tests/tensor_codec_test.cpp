// net/tensor_codec.h: what each codec keeps and loses, its bytes, and what is refused of a peer.
#include "net/tensor_codec.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "net/narrow.h"
#include "tests/test_allocations.h"
#include "tests/test_files.h"

namespace offramp::test {
namespace {

using testing::hex;

constexpr Shape kShape{.channels = 3, .height = 2, .width = 5};
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel};
constexpr Codec kCodecs[] = {Codec::kRaw, Codec::kLz4};
constexpr float kInf = std::numeric_limits<float>::infinity();

WireTensor encoded(const std::vector<float>& values, const TensorFormat& format,
                   const Shape& shape = kShape) {
  return encode_tensor({.data = values.data(), .batch = 1, .shape = shape}, format);
}

std::optional<TensorError> error_of(const WireTensor& tensor, const Shape& shape = kShape) {
  std::vector<float> out(shape.elements());
  return decode_tensor(tensor, shape, out);
}

std::vector<float> decoded(const WireTensor& tensor, const Shape& shape = kShape) {
  std::vector<float> out(shape.elements());
  REQUIRE(!decode_tensor(tensor, shape, out));
  return out;
}

std::vector<float> awkward_values() {
  std::vector<float> values(kShape.elements(), 1.0f);
  values[0] = -0.0f;
  values[1] = std::numeric_limits<float>::denorm_min();
  values[2] = std::numeric_limits<float>::max();
  values[3] = std::numeric_limits<float>::lowest();
  values.back() = 0.1f;
  return values;
}

// Most of them 0, as after a ReLU, so that LZ4 finds something.
std::vector<float> sparse_values(const Shape& shape, float low, float high, unsigned seed = 5) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(shape.elements());
  for (float& v : values) v = random() % 3 == 0 ? uniform(random) : 0.0f;
  return values;
}

// The slow twin of to_f16 and from_f16: in float64 there is nothing to round but the last place.
float nearest_half(float x) {
  if (x == 0.0f) return x;
  const double step = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
  const double rounded = std::nearbyint(static_cast<double>(x) / step) * step;
  return std::abs(rounded) > 65504.0 ? std::copysign(kInf, x) : static_cast<float>(rounded);
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// The quantisers as a reader of net/WIRE.md would take them from the payload.
Quantiser quantiser_in(const WireTensor& tensor, int groups, int group) {
  Quantiser q;
  const auto at = static_cast<std::size_t>(group), count = static_cast<std::size_t>(groups);
  std::memcpy(&q.scale, tensor.payload.data() + at * 4, 4);
  q.zero = tensor.payload[count * 4 + at];
  return q;
}

}  // namespace

TEST_CASE("tensor codec: f32 keeps every bit, packed or not") {
  for (const Codec codec : kCodecs) {
    const std::vector<float> values = awkward_values();
    const std::vector<float> out = decoded(encoded(values, {DType::kF32, codec}));
    CHECK(std::memcmp(values.data(), out.data(), values.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("tensor codec: golden bytes of net/WIRE.md") {
  const std::vector<float> values = {1.0f, -2.0f, 0.5f, 0.0f};
  const Shape shape{.channels = 2, .height = 1, .width = 2};
  const auto bytes = [&](DType dtype) {
    return hex(encoded(values, {dtype, Codec::kRaw}, shape).payload);
  };
  CHECK(bytes(DType::kF32) == "0000803f000000c00000003f00000000");
  CHECK(bytes(DType::kF16) == "003c00c000380000");
  CHECK(bytes(DType::kU8) == "b0c2403caaff00d4aa");
  CHECK(bytes(DType::kU8PerChannel) == "cb81803bcb81003c00ffff007fff");
}

TEST_CASE("tensor codec: a block of LZ4 is read as its specification says") {
  const Shape shape{.channels = 4, .height = 2, .width = 2};
  // One zero, 58 more from one byte back, five zeros: 64 bytes, 16 floats of 0.
  const WireTensor tensor{
      .dtype = DType::kF32,
      .codec = Codec::kLz4,
      .shape = shape,
      .raw_bytes = 64,
      .payload = {0x1f, 0x00, 0x01, 0x00, 0x27, 0x50, 0x00, 0x00, 0x00, 0x00, 0x00}};
  CHECK(decoded(tensor, shape) == std::vector<float>(16));
}

TEST_CASE("tensor codec: all halves survive, and those that are not finite are refused") {
  std::vector<std::uint8_t> bytes(2), again(2);
  for (std::uint32_t half = 0; half < 0x10000; ++half) {
    bytes = {static_cast<std::uint8_t>(half & 0xff), static_cast<std::uint8_t>(half >> 8)};
    float value = 0.0f;
    const bool finite = from_f16(bytes.data(), {&value, 1});
    REQUIRE(finite == ((half & 0x7c00) != 0x7c00));
    if (!finite) continue;
    REQUIRE(same_bits(nearest_half(value), value));
    to_f16({&value, 1}, again.data());
    REQUIRE(again == bytes);
  }
}

TEST_CASE("tensor codec: f16 rounds to the nearest, ties to even") {
  std::vector<float> values;
  std::mt19937 random(7);
  // Each half and its neighbour, the middle between them, and the floats beside that.
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {
    std::uint8_t bytes[] = {static_cast<std::uint8_t>(half & 0xff),
                            static_cast<std::uint8_t>(half >> 8)};
    std::uint16_t after = static_cast<std::uint16_t>(half + 1);
    std::uint8_t next_bytes[] = {static_cast<std::uint8_t>(after & 0xff),
                                 static_cast<std::uint8_t>(after >> 8)};
    float value = 0.0f, next = 0.0f;
    REQUIRE(from_f16(bytes, {&value, 1}));
    REQUIRE(from_f16(next_bytes, {&next, 1}));
    const float middle = value + (next - value) / 2;
    for (const float v :
         {value, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, kInf)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  for (int i = 0; i < 100000; ++i) {
    const float v = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isfinite(v)) values.push_back(v);
  }
  for (const float v : {65519.996f, 65520.0f, 65535.0f, 65536.0f, 1e30f}) values.push_back(v);
  std::vector<std::uint8_t> bytes(2 * values.size());
  to_f16(values, bytes.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    float value = 0.0f;
    const bool finite = from_f16(bytes.data() + 2 * i, {&value, 1});
    const float wanted = nearest_half(values[i]);
    CAPTURE(values[i]);
    REQUIRE(finite == std::isfinite(wanted));
    if (finite) REQUIRE(same_bits(value, wanted));
  }
}

TEST_CASE("tensor codec: f16 and u8 send what they do not reach as something that is refused") {
  std::vector<float> values(kShape.elements(), 1.0f);
  values[7] = 65520.0f;
  CHECK(error_of(encoded(values, {DType::kF16, Codec::kRaw})) == TensorError::kNotFinite);
  values[7] = 65519.0f;
  CHECK(!error_of(encoded(values, {DType::kF16, Codec::kRaw})));
  for (const DType dtype : {DType::kU8, DType::kU8PerChannel}) {
    CHECK(error_of(encoded(awkward_values(), {dtype, Codec::kRaw})) == TensorError::kScale);
    values[4] = std::numeric_limits<float>::lowest();
    CHECK(error_of(encoded(values, {dtype, Codec::kRaw})) == TensorError::kScale);
  }
}

TEST_CASE("tensor codec: u8 is off by half a step at most, and exact at 0") {
  constexpr Shape kShapes[] = {{1, 1, 1},  {3, 2, 5},  {16, 8, 7}, {5, 37, 13},
                               {63, 3, 2}, {64, 2, 2}, {65, 3, 1}, {700, 1, 1}};
  constexpr std::pair<float, float> kRanges[] = {
      {0.0f, 4.0f},   {-3.0f, 3.0f},     {-5.0f, 0.5f}, {-2.0f, -1.0f},   {7.0f, 7.5f},
      {0.0f, 1e-40f}, {-1e30f, 1.5e38f}, {0.0f, 0.0f},  {-1e-30f, 3e-38f}};
  for (const Shape& shape : kShapes) {
    for (const auto& range : kRanges) {
      const float low = range.first, high = range.second;
      for (const DType dtype : {DType::kU8, DType::kU8PerChannel}) {
        CAPTURE(to_string(shape));
        CAPTURE(low);
        CAPTURE(high);
        CAPTURE(dtype_name(dtype));
        const std::vector<float> values = sparse_values(shape, low, high);
        const WireTensor tensor = encoded(values, {dtype, Codec::kRaw}, shape);
        const std::vector<float> out = decoded(tensor, shape);
        const int groups = dtype == DType::kU8 ? 1 : shape.channels;
        for (std::size_t i = 0; i < values.size(); ++i) {
          const int group = static_cast<int>(i % static_cast<std::size_t>(groups));
          const Quantiser q = quantiser_in(tensor, groups, group);
          const double off = static_cast<double>(values[i]) - static_cast<double>(out[i]);
          REQUIRE(std::abs(off) <= kQuantiseError * static_cast<double>(q.scale));
          if (values[i] == 0.0f) REQUIRE(out[i] == 0.0f);
          if (low >= 0.0f) REQUIRE(q.zero == 0);
        }
      }
    }
  }
}

TEST_CASE("tensor codec: a u8 tensor uses its whole range, each channel of a u8c tensor its own") {
  const Shape shape{.channels = 2, .height = 16, .width = 16};
  std::vector<float> values(shape.elements());
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i) / 100.0f * (i % 2 == 0 ? 1.0f : -0.01f);
  const WireTensor u8 = encoded(values, {DType::kU8, Codec::kRaw}, shape);
  CHECK(std::ranges::max(std::span(u8.payload).subspan(5)) == 255);
  CHECK(std::ranges::min(std::span(u8.payload).subspan(5)) == 0);
  const WireTensor u8c = encoded(values, {DType::kU8PerChannel, Codec::kRaw}, shape);
  CHECK(quantiser_in(u8c, 2, 0).scale == doctest::Approx(5.10 / 255).epsilon(1e-3));
  CHECK(quantiser_in(u8c, 2, 1).scale == doctest::Approx(0.0511 / 255).epsilon(1e-3));
  CHECK(quantiser_in(u8c, 2, 0).zero == 0);
  CHECK(quantiser_in(u8c, 2, 1).zero == 255);
}

TEST_CASE("tensor codec: every pixel comes back as the network's input, to the bit") {
  const Shape shape{.channels = 3, .height = 16, .width = 16};
  Preprocess cifar{
      .input = shape, .mean = {0.4914f, 0.4822f, 0.4465f}, .std = {0.247f, 0.243f, 0.261f}};
  Preprocess imagenet{
      .input = shape, .mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}};
  Preprocess plain{.input = shape};
  Preprocess odd{.input = shape, .mean = {-3.0f, 7.0f, 0.1f}, .std = {0.01f, 30.0f, 1.7f}};
  // All 256 values of each colour.
  std::vector<std::uint8_t> rgb(shape.elements());
  for (std::size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<std::uint8_t>(i / 3);
  for (const Preprocess& how : {cifar, imagenet, plain, odd}) {
    const PixelTable table(how);
    std::vector<float> input(rgb.size()), out(rgb.size());
    table.normalise(rgb, input.data());
    for (const Codec codec : kCodecs) {
      const auto tensor =
          encode_pixels({.data = input.data(), .batch = 1, .shape = shape}, table, codec);
      REQUIRE(tensor);
      CHECK(tensor->raw_bytes == rgb.size());
      if (codec == Codec::kRaw) CHECK(tensor->payload == rgb);
      REQUIRE(!decode_pixels(*tensor, shape, table, out));
      CHECK(std::memcmp(out.data(), input.data(), input.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("tensor codec: what no picture has made is not sent as one, and no other size is read") {
  const Shape shape{.channels = 3, .height = 1, .width = 2};
  const PixelTable table(
      {.input = shape, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.25f, 0.25f, 0.25f}});
  const std::vector<std::uint8_t> rgb{0, 1, 127, 128, 254, 255};
  std::vector<float> input(rgb.size());
  table.normalise(rgb, input.data());
  const View view{.data = input.data(), .batch = 1, .shape = shape};
  WireTensor tensor = encode_pixels(view, table, Codec::kRaw).value();
  for (const float bad :
       {std::nextafter(input[2], 9.0f), 2.1f, -2.1f, kInf, -kInf, std::nanf("")}) {
    CAPTURE(bad);
    const float good = std::exchange(input[2], bad);
    CHECK_FALSE(encode_pixels(view, table, Codec::kRaw));
    input[2] = good;
  }
  std::vector<float> out(rgb.size());
  CHECK(decode_tensor(tensor, shape, out) == TensorError::kSize);
  tensor.payload.pop_back();
  CHECK(decode_pixels(tensor, shape, table, out) == TensorError::kSize);
  tensor.raw_bytes = 5;
  CHECK(decode_pixels(tensor, shape, table, out) == TensorError::kSize);
  tensor.codec = Codec::kLz4;
  CHECK(decode_pixels(tensor, shape, table, out) == TensorError::kSize);
  tensor.raw_bytes = 6;
  CHECK(decode_pixels(tensor, shape, table, out) == TensorError::kPacked);
  CHECK(decode_pixels(encoded(input, {}, shape), shape, table, out) == TensorError::kSize);
}

TEST_CASE("tensor codec: packed is what it is unpacked, and only where that is smaller") {
  const Shape shape{.channels = 16, .height = 8, .width = 8};
  const std::vector<float> sparse = sparse_values(shape, 0.0f, 4.0f);
  for (const DType dtype : kDTypes) {
    CAPTURE(dtype_name(dtype));
    const WireTensor raw = encoded(sparse, {dtype, Codec::kRaw}, shape);
    const WireTensor packed = encoded(sparse, {dtype, Codec::kLz4}, shape);
    CHECK(raw.codec == Codec::kRaw);
    CHECK(raw.raw_bytes == raw.payload.size());
    CHECK(raw.raw_bytes == raw_bytes(shape, dtype));
    CHECK(packed.codec == Codec::kLz4);
    CHECK(packed.raw_bytes == raw.raw_bytes);
    CHECK(packed.payload.size() < raw.payload.size());
    CHECK(decoded(packed, shape) == decoded(raw, shape));
    // Noise in every bit, which no codec finds shorter words for.
    std::vector<float> noise(shape.elements());
    std::mt19937 random(3);
    for (float& v : noise)
      v = std::bit_cast<float>(0x3f000000u | (static_cast<std::uint32_t>(random()) >> 9));
    // The zeros of a u8c tensor are all alike.
    CHECK((encoded(noise, {dtype, Codec::kLz4}, shape).codec == Codec::kLz4) ==
          (dtype == DType::kU8PerChannel));
  }
}

TEST_CASE("tensor codec: any other size is refused") {
  for (const DType dtype : kDTypes) {
    const WireTensor whole = encoded(sparse_values(kShape, 0.0f, 1.0f), {dtype, Codec::kRaw});
    for (std::size_t size = 0; size <= whole.payload.size() + 4; ++size) {
      WireTensor other = whole;
      other.payload.resize(size);
      other.raw_bytes = static_cast<std::uint32_t>(size);
      CHECK((error_of(other) == TensorError::kSize) == (size != whole.payload.size()));
    }
    for (const Shape& shape : {Shape{3, 2, 4}, Shape{3, 3, 5}, Shape{4, 2, 5}})
      CHECK(error_of(whole, shape) == TensorError::kSize);
  }
}

TEST_CASE("tensor codec: NaN and Inf are refused wherever they are, by every codec") {
  for (const DType dtype : kDTypes) {
    for (const Codec codec : kCodecs) {
      for (const float bad : {std::nanf(""), -std::nanf(""), kInf, -kInf}) {
        for (std::size_t i = 0; i < kShape.elements(); ++i) {
          std::vector<float> values(kShape.elements(), 1.0f);
          values[i] = bad;
          const std::optional<TensorError> error = error_of(encoded(values, {dtype, codec}));
          REQUIRE((error == TensorError::kNotFinite || error == TensorError::kScale));
        }
      }
    }
  }
}

TEST_CASE("tensor codec: scales that a peer makes up are refused, or make finite numbers") {
  for (const DType dtype : {DType::kU8, DType::kU8PerChannel}) {
    const int groups = dtype == DType::kU8 ? 1 : kShape.channels;
    const WireTensor whole = encoded(sparse_values(kShape, -1.0f, 1.0f), {dtype, Codec::kRaw});
    const float denormal = std::nextafter(kLeastScale, 0.0f);
    const float huge = std::nextafter(kLargestScale, kInf);
    for (const float bad : {0.0f, -0.0f, -1.0f, denormal, huge, kInf, -kInf, std::nanf("")}) {
      for (int group = 0; group < groups; ++group) {
        WireTensor other = whole;
        std::memcpy(other.payload.data() + 4 * group, &bad, 4);
        CHECK(error_of(other) == TensorError::kScale);
      }
    }
    for (const float good : {kLeastScale, kLargestScale}) {
      for (const int zero : {0, 128, 255}) {
        WireTensor other = whole;
        for (int group = 0; group < groups; ++group) {
          std::memcpy(other.payload.data() + 4 * group, &good, 4);
          other.payload[static_cast<std::size_t>(4 * groups + group)] =
              static_cast<std::uint8_t>(zero);
        }
        std::fill(other.payload.begin() + 5 * groups, other.payload.end(), std::uint8_t{255});
        other.payload.back() = 0;
        for (const float v : decoded(other)) CHECK(std::isfinite(v));
      }
    }
  }
}

TEST_CASE("tensor codec: damaged LZ4 is refused and takes no more memory than the shape says") {
  const Shape shape{.channels = 16, .height = 8, .width = 8};
  std::vector<float> out(shape.elements());
  const auto refused = [&](const WireTensor& tensor) {
    const std::uint64_t before = allocated_bytes();
    const std::optional<TensorError> error = decode_tensor(tensor, shape, out);
    const std::uint64_t taken = allocated_bytes() - before;
    // The unpacked bytes, and the quantisers of the channels.
    CHECK(taken <= *raw_bytes(shape, tensor.dtype) + sizeof(Quantiser) * 16);
    return error.has_value();
  };
  for (const DType dtype : kDTypes) {
    CAPTURE(dtype_name(dtype));
    const WireTensor whole = encoded(sparse_values(shape, 0.0f, 4.0f), {dtype, Codec::kLz4}, shape);
    REQUIRE(whole.codec == Codec::kLz4);
    CHECK(!refused(whole));
    for (std::size_t size = 0; size < whole.payload.size(); ++size) {
      WireTensor cut = whole;
      cut.payload.resize(size);
      REQUIRE(refused(cut));
    }
    std::mt19937 random(9);
    for (int i = 0; i < 2000; ++i) {
      WireTensor other = whole;
      for (int k = 0; k < 3; ++k)
        other.payload[random() % other.payload.size()] = static_cast<std::uint8_t>(random());
      static_cast<void>(refused(other));
      for (std::uint8_t& byte : other.payload) byte = static_cast<std::uint8_t>(random());
      static_cast<void>(refused(other));
    }
    for (const std::uint32_t claim : {0u, whole.raw_bytes - 1, whole.raw_bytes + 1, 0xffffffffu}) {
      WireTensor other = whole;
      other.raw_bytes = claim;
      CHECK(refused(other));
    }
    // A bomb: some kilobytes that stand for about a megabyte, whatever size it claims to have.
    WireTensor bomb = whole;
    bomb.payload.assign(*raw_bytes(shape, dtype) - 1, 0xff);
    bomb.payload[0] = 0x1f;
    bomb.payload[1] = 0;
    bomb.payload[2] = 1;
    bomb.payload[3] = 0;
    for (const std::uint32_t claim : {whole.raw_bytes, whole.raw_bytes + 1, 0xffffffffu}) {
      bomb.raw_bytes = claim;
      CHECK(refused(bomb));
    }
    // Well packed, of a larger tensor.
    const Shape larger{.channels = 16, .height = 9, .width = 8};
    WireTensor other = encoded(sparse_values(larger, 0.0f, 4.0f), {dtype, Codec::kLz4}, larger);
    CHECK(refused(other));
    other.raw_bytes = whole.raw_bytes;
    CHECK(refused(other));
  }
}

TEST_CASE("tensor codec: a refusal says what was wanted and what was found") {
  WireTensor tensor = encoded(sparse_values(kShape, 0.0f, 1.0f), {DType::kU8, Codec::kRaw});
  tensor.payload.pop_back();
  const std::string size = describe(TensorError::kSize, tensor, kShape);
  CHECK(size == "wanted 3x2x5 as u8, 35 bytes, found 34");
  for (const TensorError error :
       {TensorError::kPacked, TensorError::kScale, TensorError::kNotFinite}) {
    const std::string text = describe(error, tensor, kShape);
    CHECK(text.starts_with("wanted 3x2x5 as u8 "));
    CHECK(text.find(", found ") != std::string::npos);
  }
}

TEST_CASE("tensor codec: sizes that overflow or make no sense have no bytes") {
  constexpr std::size_t kWanted[] = {120, 60, 35, 45};
  for (std::size_t i = 0; i < std::size(kDTypes); ++i) {
    const DType dtype = kDTypes[i];
    CHECK(raw_bytes(kShape, dtype) == kWanted[i]);
    CHECK(!raw_bytes({.channels = 0, .height = 1, .width = 1}, dtype));
    CHECK(!raw_bytes({.channels = -1, .height = -1, .width = 1}, dtype));
    constexpr int kLarge = std::numeric_limits<int>::max();
    CHECK(!raw_bytes({.channels = kLarge, .height = kLarge, .width = kLarge}, dtype));
  }
  CHECK(largest_raw_bytes(kShape) == std::size_t{120});
  CHECK(largest_raw_bytes({.channels = 10, .height = 1, .width = 1}) == std::size_t{60});
}

}  // namespace offramp::test
