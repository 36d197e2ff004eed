// Loops that a compiler turns into vectors, without branches: this file is built with -O3, and with
// -ffp-contract=off so that all machines round alike.
#include "net/narrow.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

// Where the loader can choose, every such loop stands twice in the program: for AVX2, and for what
// any machine of its architecture has. The choice is made before a sanitizer has set itself up, so
// code with one has the plain loops alone.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__clang__)
#define OFFRAMP_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define OFFRAMP_WIDE
#endif

namespace offramp {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

constexpr std::uint32_t kExponent = 0x7f800000;

// 1 for NaN and Inf, otherwise 0.
std::uint32_t not_finite(float v) {
  return (std::bit_cast<std::uint32_t>(v) & kExponent) == kExponent ? 1u : 0u;
}

// All ones when a < b, otherwise 0; a and b are at least 0.
std::uint32_t mask_less(std::int32_t a, std::int32_t b) {
  return static_cast<std::uint32_t>((a - b) >> 31);
}

// x[rows, columns] is worked on in blocks of lanes, several rows side by side where they are short:
// with one column for the whole tensor, a row is simply the next 64 elements.
constexpr std::size_t kLanes = 64;
template <class T>
using Lanes = std::array<T, kLanes>;

struct Block {
  std::size_t begin, rows, stride, width;
  std::size_t column;  ///< of lane 0; after the last column comes the first
};

template <class Work>
void for_each_block(std::size_t rows, std::size_t columns, Work work) {
  if (columns > kLanes) {
    for (std::size_t c = 0; c < columns; c += kLanes)
      work(Block{c, rows, columns, std::min(kLanes, columns - c), c});
    return;
  }
  const std::size_t together = kLanes / columns, width = together * columns;
  work(Block{0, rows / together, width, width, 0});
  work(Block{rows / together * width, 1, width, rows % together * columns, 0});
}

template <class Visit>
void for_each_lane(const Block& block, std::size_t columns, Visit visit) {
  std::size_t column = block.column;
  for (std::size_t l = 0; l < block.width; ++l) {
    visit(l, column);
    if (++column == columns) column = 0;
  }
}

// A step is a 254.99th of the range and not a 255th: (x / scale + zero) + 0.5 then stays between
// 0 and 256 wherever zero was rounded to, and needs no clamp, which SSE2 has none for that a
// compiler would find.
constexpr double kSteps = 254.99;

struct Range {
  float low = 0.0f, high = 0.0f;
  bool finite = true;
};

Quantiser spanning(const Range& range) {
  if (!range.finite) return {.scale = std::numeric_limits<float>::quiet_NaN()};
  const double low = static_cast<double>(range.low), high = static_cast<double>(range.high);
  const float scale = std::max(static_cast<float>((high - low) / kSteps), kLeastScale);
  return {scale, static_cast<std::uint8_t>(-low / static_cast<double>(scale) + 0.5)};
}

// The sizes of `rows` rows of x[rows, width], which stand `stride` apart. Four rows at a time, as
// the lanes go through memory.
OFFRAMP_WIDE
void widen(const float* __restrict x, std::size_t rows, std::size_t stride, std::size_t width,
           float* __restrict low, float* __restrict high, std::uint32_t* __restrict bad) {
  const auto least = [](float a, float b) { return b < a ? b : a; };
  const auto most = [](float a, float b) { return a < b ? b : a; };
  for (; rows >= 4; rows -= 4, x += 4 * stride) {
    const float *b = x + stride, *c = b + stride, *d = c + stride;
    for (std::size_t l = 0; l < width; ++l) {
      low[l] = least(low[l], least(least(x[l], b[l]), least(c[l], d[l])));
      high[l] = most(high[l], most(most(x[l], b[l]), most(c[l], d[l])));
      bad[l] |= not_finite(x[l]) | not_finite(b[l]) | not_finite(c[l]) | not_finite(d[l]);
    }
  }
  for (; rows > 0; --rows, x += stride) {
    for (std::size_t l = 0; l < width; ++l) {
      low[l] = least(low[l], x[l]);
      high[l] = most(high[l], x[l]);
      bad[l] |= not_finite(x[l]);
    }
  }
}

OFFRAMP_WIDE
void quantise_rows(const float* __restrict x, std::size_t rows, std::size_t stride,
                   std::size_t width, const float* __restrict inverse,
                   const float* __restrict offset, std::uint8_t* __restrict q) {
  for (; rows > 0; --rows, x += stride, q += stride) {
    for (std::size_t l = 0; l < width; ++l)
      q[l] = static_cast<std::uint8_t>(static_cast<int>(x[l] * inverse[l] + offset[l]));
  }
}

OFFRAMP_WIDE
void dequantise_rows(const std::uint8_t* __restrict q, std::size_t rows, std::size_t stride,
                     std::size_t width, const float* __restrict scale, const float* __restrict zero,
                     float* __restrict x) {
  for (; rows > 0; --rows, q += stride, x += stride)
    for (std::size_t l = 0; l < width; ++l) x[l] = (static_cast<float>(q[l]) - zero[l]) * scale[l];
}

}  // namespace

OFFRAMP_WIDE
bool all_finite(std::span<const float> x) {
  std::uint32_t bad = 0;
  for (const float v : x) bad |= not_finite(v);
  return bad == 0;
}

// After Fabian Giesen's float_to_half_rtne: three cases, of which masks take the right one.
OFFRAMP_WIDE
void to_f16(std::span<const float> x, std::uint8_t* y) {
  constexpr std::int32_t kLeastNormal = 0x38800000;  // 2^-14
  constexpr std::int32_t kTooLarge = 0x477fffff;     // the last float below 2^16
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(x[i]);
    const std::uint32_t size = bits & 0x7fffffff;
    const auto ordered = static_cast<std::int32_t>(size);
    // Another bias for the exponent, and half a unit, a bit less where the last place is even.
    const std::uint32_t normal = (size + 0xc8000fff + ((size >> 13) & 1)) >> 13;
    // The addition rounds to the last place of a subnormal half.
    const std::uint32_t subnormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000;
    const std::uint32_t small = mask_less(ordered, kLeastNormal);
    const std::uint32_t large = mask_less(kTooLarge, ordered);
    std::uint32_t half = (subnormal & small) | (normal & ~small);
    half = (half & ~large) | (0x7c00 & large) | ((bits >> 16) & 0x8000);
    const auto written = static_cast<std::uint16_t>(half);
    std::memcpy(y + 2 * i, &written, sizeof written);
  }
}

OFFRAMP_WIDE
bool from_f16(const std::uint8_t* x, std::span<float> y) {
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, x + 2 * i, sizeof half);
    const std::int32_t size = half & 0x7fff;
    bad |= mask_less(0x7bff, size);
    const std::uint32_t small = mask_less(size, 0x0400);
    const std::uint32_t normal = (static_cast<std::uint32_t>(size) << 13) + 0x38000000;
    const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(size) * 0x1p-24f);
    const std::uint32_t sign = (half & 0x8000u) << 16;
    y[i] = std::bit_cast<float>((subnormal & small) | (normal & ~small) | sign);
  }
  return bad == 0;
}

void find_quantisers(const float* x, std::size_t rows, std::span<Quantiser> columns) {
  std::vector<Range> ranges(columns.size());
  for_each_block(rows, columns.size(), [&](const Block& block) {
    Lanes<float> low{}, high{};
    Lanes<std::uint32_t> bad{};
    widen(x + block.begin, block.rows, block.stride, block.width, low.data(), high.data(),
          bad.data());
    for_each_lane(block, columns.size(), [&](std::size_t l, std::size_t column) {
      Range& range = ranges[column];
      range.low = std::min(range.low, low[l]);
      range.high = std::max(range.high, high[l]);
      range.finite = range.finite && bad[l] == 0;
    });
  });
  std::ranges::transform(ranges, columns.begin(), spanning);
}

void quantise(const float* x, std::size_t rows, std::span<const Quantiser> columns,
              std::uint8_t* q) {
  for_each_block(rows, columns.size(), [&](const Block& block) {
    Lanes<float> inverse, offset{};
    inverse.fill(1.0f);
    for_each_lane(block, columns.size(), [&](std::size_t l, std::size_t column) {
      inverse[l] = columns[column].scale;
      offset[l] = static_cast<float>(columns[column].zero) + 0.5f;
    });
    for (float& v : inverse) v = 1.0f / v;
    quantise_rows(x + block.begin, block.rows, block.stride, block.width, inverse.data(),
                  offset.data(), q + block.begin);
  });
}

void dequantise(const std::uint8_t* q, std::size_t rows, std::span<const Quantiser> columns,
                float* x) {
  for_each_block(rows, columns.size(), [&](const Block& block) {
    Lanes<float> scale{}, zero{};
    for_each_lane(block, columns.size(), [&](std::size_t l, std::size_t column) {
      scale[l] = columns[column].scale;
      zero[l] = static_cast<float>(columns[column].zero);
    });
    dequantise_rows(q + block.begin, block.rows, block.stride, block.width, scale.data(),
                    zero.data(), x + block.begin);
  });
}

}  // namespace offramp
