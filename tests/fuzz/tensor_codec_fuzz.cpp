// Arbitrary payloads: what decode_tensor() accepts is finite. Arbitrary floats: what
// encode_tensor() writes is read with the error that net/narrow.h promises, or refused where a
// number is not finite or out of reach.
//
// Input: dtype, codec, a shape, whether the length is the right one, then the payload.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "net/narrow.h"
#include "net/tensor_codec.h"

using namespace offramp;

namespace {

void require(bool good) {
  if (!good) std::abort();
}

float largest(const std::vector<float>& values) {
  float most = 0.0f;
  for (const float v : values) most = std::max(most, std::abs(v));
  return most;
}

// What `out` may be off by, where the whole tensor's range is that of `most` on both sides of 0.
double tolerance(DType dtype, float value, float most) {
  if (dtype == DType::kF32) return 0.0;
  if (dtype == DType::kF16)
    return std::max(std::ldexp(std::abs(static_cast<double>(value)), -11), 0x1p-25);
  const double scale = std::max(2 * static_cast<double>(most) / 254.99 * (1 + 1e-6),
                                static_cast<double>(kLeastScale));
  return kQuantiseError * scale;
}

void round_trip(const std::vector<float>& values, const TensorFormat& format, const Shape& shape) {
  const WireTensor tensor =
      encode_tensor({.data = values.data(), .batch = 1, .shape = shape}, format);
  std::vector<float> out(values.size());
  const float most = largest(values);
  if (decode_tensor(tensor, shape, out)) {
    // Each dtype holds at least what is below its reach.
    const float reach = format.dtype == DType::kF32   ? std::numeric_limits<float>::infinity()
                        : format.dtype == DType::kF16 ? 65520.0f
                                                      : 1.6e38f;
    require(!all_finite(values) || most >= reach);
    return;
  }
  require(all_finite(values));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double off = static_cast<double>(out[i]) - static_cast<double>(values[i]);
    require(std::abs(off) <= tolerance(format.dtype, values[i], most));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 6) return 0;
  const TensorFormat format{static_cast<DType>(1 + data[0] % 4), static_cast<Codec>(data[1] % 2)};
  const Shape shape{.channels = 1 + data[2], .height = 1 + data[3] % 4, .width = 1 + data[4] % 4};
  const bool right_length = data[5] % 4 != 0;
  data += 6;
  size -= 6;

  WireTensor tensor{.dtype = format.dtype,
                    .codec = format.codec,
                    .shape = shape,
                    .raw_bytes = static_cast<std::uint32_t>(size),
                    .payload = {data, data + size}};
  if (right_length) {
    tensor.raw_bytes = static_cast<std::uint32_t>(raw_bytes(shape, format.dtype).value());
    if (format.codec == Codec::kRaw) tensor.payload.resize(tensor.raw_bytes);
  }
  std::vector<float> out(shape.elements());
  if (!decode_tensor(tensor, shape, out)) require(all_finite(out));

  std::vector<float> values(shape.elements());
  std::memcpy(values.data(), data, std::min(size, values.size() * sizeof(float)));
  round_trip(values, format, shape);
  return 0;
}
