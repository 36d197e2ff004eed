// Tensors as payload bytes and back; "The tensor" in net/WIRE.md. Elements are in the order of View
// ([height, width, channels], channels last), numbers little-endian.
//
//   f32   the 4 bytes of each element's IEEE 754 bits: nothing is lost
//   f16   2 bytes each
//   u8    scale (f32) and zero (u8) of the tensor, then a byte each
//   u8c   the scales of all channels, the zeros of all channels, then a byte each
//   pixels  the picture before it was normalised, [height, width, 3], a byte each
//
// With Codec::kLz4 all of that is one LZ4 block. net/narrow.h says what f16 and u8 lose.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "engine/picture.h"
#include "engine/tensor.h"
#include "net/message.h"

namespace offramp {

/// How a tier writes the tensors that it hands on.
struct TensorFormat {
  DType dtype = DType::kF32;
  Codec codec = Codec::kRaw;
};

/// Bytes that one sample of `shape` takes before it is packed; nullopt when that overflows or a
/// side is not positive.
[[nodiscard]] std::optional<std::size_t> raw_bytes(const Shape& shape, DType dtype);
/// The same, of the dtype that takes the most.
[[nodiscard]] std::optional<std::size_t> largest_raw_bytes(const Shape& shape);

/// Writes one sample (view.batch == 1). It is packed only where that makes it smaller: look at the
/// result's codec. A tensor with NaN or Inf in it, or with numbers that the dtype does not reach,
/// becomes one that decode_tensor() refuses.
WireTensor encode_tensor(const View& sample, const TensorFormat& format);

/// Writes the network's input (sample.batch == 1) as the pixels that `table` made it of, a byte
/// each; none when they cannot be found again. What decode_pixels() makes of it is the same to the
/// bit.
std::optional<WireTensor> encode_pixels(const View& sample, const PixelTable& table, Codec codec);

enum class TensorError {
  kSize,       ///< not of the size that the shape asks for
  kPacked,     ///< not LZ4, or of another size once unpacked
  kScale,      ///< a scale that is not positive, not finite or out of range
  kNotFinite,  ///< holds NaN or Inf
};

/// Writes shape.elements() floats, all of them finite, to `out`. `shape` is the receiver's own,
/// from its model: it alone says how much memory is used. `tensor` may be anything.
[[nodiscard]] std::optional<TensorError> decode_tensor(const WireTensor& tensor, const Shape& shape,
                                                       std::span<float> out);

/// The same for what encode_pixels() writes; any other dtype is kSize.
[[nodiscard]] std::optional<TensorError> decode_pixels(const WireTensor& tensor, const Shape& shape,
                                                       const PixelTable& table,
                                                       std::span<float> out);

/// What was wanted and what was found, for the peer that has sent `tensor`.
std::string describe(TensorError error, const WireTensor& tensor, const Shape& shape);

}  // namespace offramp
