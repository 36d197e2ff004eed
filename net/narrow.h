// Floats as f16 and as u8, and back: the arithmetic of net/tensor_codec.h, which knows the sizes
// and what a peer may send.
//
//   f16   IEEE 754 binary16, rounded to the nearest, ties to even
//   u8    x ~ scale * (q - zero), q and zero in 0..255; zero is 0 where nothing is negative. An
//         element's error is at most kQuantiseError scales.
//
// The same input gives the same bytes, and the same bytes give the same floats, on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace offramp {

/// True when there is neither NaN nor Inf among `x`.
bool all_finite(std::span<const float> x);

/// Writes 2 * x.size() bytes, little-endian. NaN, and what rounds to more than 65504, becomes
/// Inf.
void to_f16(std::span<const float> x, std::uint8_t* y);
/// Reads 2 * y.size() bytes. False when there is NaN or Inf among them; `y` is then unspecified.
[[nodiscard]] bool from_f16(const std::uint8_t* x, std::span<float> y);

struct Quantiser {
  float scale = 0.0f;
  std::uint8_t zero = 0;
};

/// What a receiver takes. With each of them, both 1 / scale and 255 * scale are finite.
inline constexpr float kLeastScale = std::numeric_limits<float>::min();
inline constexpr float kLargestScale = std::numeric_limits<float>::max() / 256.0f;
inline bool is_scale(float scale) { return scale >= kLeastScale && scale <= kLargestScale; }

/// Half a step, and what three roundings of numbers up to 256 add to it.
inline constexpr double kQuantiseError = 0.5 + 3 * 256.0 / (1 << 24);

/// One quantiser for each column of x[rows, columns], which spans 0 and that column. Where the
/// column holds NaN or Inf, or spans more than a scale can say, it is not is_scale().
void find_quantisers(const float* x, std::size_t rows, std::span<Quantiser> columns);

/// q[rows, columns] <- x[rows, columns], with the quantisers found for this `x`; all is_scale().
void quantise(const float* x, std::size_t rows, std::span<const Quantiser> columns,
              std::uint8_t* q);
/// x[rows, columns] <- q[rows, columns]. With scales that are is_scale(), all of `x` is finite.
void dequantise(const std::uint8_t* q, std::size_t rows, std::span<const Quantiser> columns,
                float* x);

}  // namespace offramp
