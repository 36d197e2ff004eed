#include "net/tensor_codec.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace offramp {
namespace {

std::size_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kNone:
      return 0;
    case DType::kF32:
      return 4;
  }
  return 0;
}

}  // namespace

std::optional<std::size_t> raw_bytes(const Shape& shape, DType dtype) {
  std::size_t bytes = element_bytes(dtype);
  for (const int side : {shape.channels, shape.height, shape.width})
    if (side <= 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(side), &bytes))
      return {};
  return bytes;
}

std::vector<std::uint8_t> encode_tensor(const View& sample, DType dtype, Codec codec) {
  assert(sample.batch == 1 && dtype == DType::kF32 && codec == Codec::kRaw);
  static_cast<void>(dtype);
  static_cast<void>(codec);
  static_assert(std::endian::native == std::endian::little, "the wire has little-endian floats");
  std::vector<std::uint8_t> payload(sample.elements() * sizeof(float));
  std::memcpy(payload.data(), sample.data, payload.size());
  return payload;
}

std::optional<TensorError> decode_tensor(std::span<const std::uint8_t> payload, DType dtype,
                                         Codec codec, const Shape& shape, std::span<float> out) {
  const std::optional<std::size_t> bytes = raw_bytes(shape, dtype);
  if (codec != Codec::kRaw || !bytes || payload.size() != *bytes ||
      out.size() * sizeof(float) != *bytes)
    return TensorError::kSize;
  std::memcpy(out.data(), payload.data(), payload.size());
  // x * 0 is 0 for finite x and NaN otherwise: one sum instead of a branch for each element.
  float sum = 0.0f;
  for (const float v : out) sum += v * 0.0f;
  if (std::isnan(sum)) return TensorError::kNotFinite;
  return {};
}

}  // namespace offramp
