// Tensors as payload bytes. f32, raw: elements in the order of View ([1, height, width, channels],
// channels last), each as the 4 bytes of its IEEE 754 bits, little-endian.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/tensor.h"
#include "net/message.h"

namespace offramp {

/// Bytes that one sample of `shape` takes once decoded; nullopt when that overflows or a side is
/// not positive.
[[nodiscard]] std::optional<std::size_t> raw_bytes(const Shape& shape, DType dtype);

/// The payload for one sample (view.batch == 1).
std::vector<std::uint8_t> encode_tensor(const View& sample, DType dtype, Codec codec);

enum class TensorError {
  kSize,       ///< payload is not of the size that `shape` asks for
  kNotFinite,  ///< holds NaN or Inf
};

/// Writes shape.elements() floats to `out`. `shape` is the receiver's own, from its model.
[[nodiscard]] std::optional<TensorError> decode_tensor(std::span<const std::uint8_t> payload,
                                                       DType dtype, Codec codec, const Shape& shape,
                                                       std::span<float> out);

}  // namespace offramp
