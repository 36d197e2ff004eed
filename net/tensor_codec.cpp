#include "net/tensor_codec.h"

#include <lz4.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <memory>
#include <vector>

#include "net/narrow.h"

namespace offramp {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

using Bytes = std::span<const std::uint8_t>;

constexpr std::size_t kQuantiserBytes = sizeof(float) + 1;

// Sums and products of sizes; nullopt once one has overflowed.
using Size = std::optional<std::size_t>;

Size product(Size a, int side) {
  std::size_t result = 0;
  if (!a || side <= 0 || __builtin_mul_overflow(*a, static_cast<std::size_t>(side), &result))
    return {};
  return result;
}

Size sum(Size a, Size b) {
  std::size_t result = 0;
  if (!a || !b || __builtin_add_overflow(*a, *b, &result)) return {};
  return result;
}

// How many quantisers stand before the elements.
int quantisers(const Shape& shape, DType dtype) {
  return dtype == DType::kU8 ? 1 : dtype == DType::kU8PerChannel ? shape.channels : 0;
}

std::size_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kNone:
      return 0;
    case DType::kF32:
      return 4;
    case DType::kF16:
      return 2;
    case DType::kU8:
    case DType::kU8PerChannel:
    case DType::kPixels:
      return 1;
  }
  return 0;
}

void write_quantised(const View& sample, int groups, std::uint8_t* out) {
  std::vector<Quantiser> found(static_cast<std::size_t>(groups));
  const std::size_t rows = sample.elements() / found.size();
  find_quantisers(sample.data, rows, found);
  bool good = true;
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::memcpy(out + i * sizeof(float), &found[i].scale, sizeof(float));
    out[found.size() * sizeof(float) + i] = found[i].zero;
    good = good && is_scale(found[i].scale);
  }
  if (good) quantise(sample.data, rows, found, out + found.size() * kQuantiserBytes);
}

std::optional<TensorError> read_quantised(const std::uint8_t* in, int groups,
                                          std::span<float> out) {
  std::vector<Quantiser> read(static_cast<std::size_t>(groups));
  for (std::size_t i = 0; i < read.size(); ++i) {
    std::memcpy(&read[i].scale, in + i * sizeof(float), sizeof(float));
    read[i].zero = in[read.size() * sizeof(float) + i];
    if (!is_scale(read[i].scale)) return TensorError::kScale;
  }
  dequantise(in + read.size() * kQuantiserBytes, out.size() / read.size(), read, out.data());
  return {};
}

void write_raw(const View& sample, DType dtype, std::uint8_t* out) {
  switch (dtype) {
    case DType::kNone:
    case DType::kPixels:
      return;
    case DType::kF32:
      std::memcpy(out, sample.data, sample.elements() * sizeof(float));
      return;
    case DType::kF16:
      to_f16({sample.data, sample.elements()}, out);
      return;
    case DType::kU8:
    case DType::kU8PerChannel:
      write_quantised(sample, quantisers(sample.shape, dtype), out);
      return;
  }
}

// `in` holds raw_bytes(shape, dtype), `out` all elements.
std::optional<TensorError> read_raw(const std::uint8_t* in, DType dtype, const Shape& shape,
                                    std::span<float> out) {
  switch (dtype) {
    case DType::kNone:
    case DType::kPixels:
      break;
    case DType::kF32:
      std::memcpy(out.data(), in, out.size_bytes());
      return all_finite(out) ? std::nullopt : std::optional(TensorError::kNotFinite);
    case DType::kF16:
      return from_f16(in, out) ? std::nullopt : std::optional(TensorError::kNotFinite);
    case DType::kU8:
    case DType::kU8PerChannel:
      return read_quantised(in, quantisers(shape, dtype), out);
  }
  return TensorError::kSize;
}

// Packs the payload where that makes it smaller.
void pack(WireTensor& tensor) {
  if (tensor.payload.size() > LZ4_MAX_INPUT_SIZE) return;
  const auto size = static_cast<int>(tensor.payload.size());
  std::vector<std::uint8_t> packed(tensor.payload.size());
  const int bytes =
      LZ4_compress_default(reinterpret_cast<const char*>(tensor.payload.data()),
                           reinterpret_cast<char*>(packed.data()), size, std::max(size - 1, 0));
  if (bytes <= 0) return;
  packed.resize(static_cast<std::size_t>(bytes));
  tensor.payload = std::move(packed);
  tensor.codec = Codec::kLz4;
}

// `out` is as long as the payload must become.
bool unpack(Bytes payload, std::span<std::uint8_t> out) {
  if (out.size() > LZ4_MAX_INPUT_SIZE || payload.size() >= out.size()) return false;
  const int bytes = LZ4_decompress_safe(
      reinterpret_cast<const char*>(payload.data()), reinterpret_cast<char*>(out.data()),
      static_cast<int>(payload.size()), static_cast<int>(out.size()));
  return bytes >= 0 && static_cast<std::size_t>(bytes) == out.size();
}

// A tensor with room for its payload.
WireTensor unwritten(const Shape& shape, DType dtype) {
  const std::optional<std::size_t> bytes = raw_bytes(shape, dtype);
  assert(bytes);
  return {.dtype = dtype,
          .codec = Codec::kRaw,
          .shape = shape,
          .raw_bytes = static_cast<std::uint32_t>(*bytes),
          .payload = std::vector<std::uint8_t>(*bytes)};
}

// Checks all sizes, then calls `read` with the raw_bytes(shape, dtype) bytes of the tensor.
template <class Read>
std::optional<TensorError> unpack_and(const WireTensor& tensor, const Shape& shape,
                                      std::span<float> out, Read read) {
  const std::optional<std::size_t> bytes = raw_bytes(shape, tensor.dtype);
  if (!bytes || tensor.raw_bytes != *bytes || out.size() != shape.elements())
    return TensorError::kSize;
  if (tensor.codec == Codec::kRaw) {
    if (tensor.payload.size() != *bytes) return TensorError::kSize;
    return read(tensor.payload.data());
  }
  const auto unpacked = std::make_unique_for_overwrite<std::uint8_t[]>(*bytes);
  if (!unpack(tensor.payload, {unpacked.get(), *bytes})) return TensorError::kPacked;
  return read(unpacked.get());
}

}  // namespace

std::optional<std::size_t> raw_bytes(const Shape& shape, DType dtype) {
  Size elements = element_bytes(dtype);
  for (const int side : {shape.channels, shape.height, shape.width})
    elements = product(elements, side);
  const int groups = quantisers(shape, dtype);
  return groups == 0 ? elements : sum(elements, product(kQuantiserBytes, groups));
}

std::optional<std::size_t> largest_raw_bytes(const Shape& shape) {
  // Where there are few elements to a channel, u8c takes more than f32.
  const Size f32 = raw_bytes(shape, DType::kF32), u8c = raw_bytes(shape, DType::kU8PerChannel);
  if (!f32 || !u8c) return {};
  return std::max(*f32, *u8c);
}

WireTensor encode_tensor(const View& sample, const TensorFormat& format) {
  assert(sample.batch == 1);
  WireTensor tensor = unwritten(sample.shape, format.dtype);
  write_raw(sample, format.dtype, tensor.payload.data());
  if (format.codec == Codec::kLz4) pack(tensor);
  return tensor;
}

std::optional<WireTensor> encode_pixels(const View& sample, const PixelTable& table, Codec codec) {
  assert(sample.batch == 1);
  WireTensor tensor = unwritten(sample.shape, DType::kPixels);
  if (!table.recover({sample.data, sample.elements()}, tensor.payload.data())) return {};
  if (codec == Codec::kLz4) pack(tensor);
  return tensor;
}

std::optional<TensorError> decode_tensor(const WireTensor& tensor, const Shape& shape,
                                         std::span<float> out) {
  return unpack_and(tensor, shape, out, [&](const std::uint8_t* raw) {
    return read_raw(raw, tensor.dtype, shape, out);
  });
}

std::optional<TensorError> decode_pixels(const WireTensor& tensor, const Shape& shape,
                                         const PixelTable& table, std::span<float> out) {
  if (tensor.dtype != DType::kPixels) return TensorError::kSize;
  return unpack_and(tensor, shape, out, [&](const std::uint8_t* raw) {
    table.normalise({raw, out.size()}, out.data());
    return std::optional<TensorError>();
  });
}

std::string describe(TensorError error, const WireTensor& tensor, const Shape& shape) {
  std::string wanted = "wanted " + to_string(shape) + " as " + dtype_name(tensor.dtype);
  switch (error) {
    case TensorError::kSize:
      return wanted + ", " + std::to_string(raw_bytes(shape, tensor.dtype).value_or(0)) +
             " bytes, found " +
             std::to_string(tensor.codec == Codec::kRaw ? tensor.payload.size() : tensor.raw_bytes);
    case TensorError::kPacked:
      return wanted + " in fewer bytes of LZ4, found " + std::to_string(tensor.payload.size()) +
             " bytes that do not unpack to it";
    case TensorError::kScale:
      return wanted + " with finite scales above 0, found another one";
    case TensorError::kNotFinite:
      return wanted + " with finite numbers, found NaN or Inf";
  }
  return wanted;
}

}  // namespace offramp
