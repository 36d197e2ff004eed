// Resizing with a triangle filter that widens when shrinking, in Pillow's fixed-point arithmetic.
#include "engine/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace offramp {
namespace {

// Coefficients have 22 fractional bits: 32 less 8 of a pixel and 2 for the sign and rounding.
constexpr int kFractionBits = 32 - 8 - 2;

// For each output position: which input positions it sees, and with what weights.
struct Filter {
  struct Tap {
    int first = 0, count = 0;
  };
  std::vector<Tap> taps;
  std::vector<std::int32_t> weights;  // [taps.size()][stride]
  std::size_t stride = 0;

  const std::int32_t* weights_of(std::size_t i) const { return weights.data() + i * stride; }
};

// The filter for outputs [first, first + count) of `out` positions over `in` positions.
Filter make_filter(int in, int out, int first, int count) {
  const double scale = static_cast<double>(in) / out;
  const double support = std::max(scale, 1.0);
  Filter filter;
  filter.stride = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  filter.taps.resize(static_cast<std::size_t>(count));
  filter.weights.resize(filter.taps.size() * filter.stride);
  std::vector<double> exact(filter.stride);
  for (std::size_t i = 0; i < filter.taps.size(); ++i) {
    const double center = (first + static_cast<int>(i) + 0.5) * scale;
    const int low = std::max(static_cast<int>(center - support + 0.5), 0);
    const int high = std::min(static_cast<int>(center + support + 0.5), in);
    filter.taps[i] = {low, high - low};
    double sum = 0;
    for (int x = low; x < high; ++x) {
      const double distance = std::abs((x - center + 0.5) * (1.0 / support));
      exact[static_cast<std::size_t>(x - low)] = distance < 1 ? 1 - distance : 0;
      sum += exact[static_cast<std::size_t>(x - low)];
    }
    for (int x = 0; x < high - low; ++x) {
      const double weight = exact[static_cast<std::size_t>(x)] / sum;
      filter.weights[i * filter.stride + static_cast<std::size_t>(x)] =
          static_cast<std::int32_t>(0.5 + weight * (1 << kFractionBits));
    }
  }
  return filter;
}

// Weighted sum of `count` pixels that lie `step` bytes apart, rounded and clipped.
std::uint8_t weighted(const std::uint8_t* pixels, std::size_t step, const std::int32_t* weights,
                      int count) {
  std::int32_t sum = 1 << (kFractionBits - 1);
  for (int i = 0; i < count; ++i) sum += pixels[static_cast<std::size_t>(i) * step] * weights[i];
  return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

}  // namespace

Picture resize_window(const Picture& picture, int width, int height, const Window& window) {
  const Filter across = make_filter(picture.width, width, window.left, window.width);
  const Filter down = make_filter(picture.height, height, window.top, window.height);
  // Only the rows that the second pass reads.
  const int first_row = down.taps.front().first;
  const int rows = down.taps.back().first + down.taps.back().count - first_row;
  const std::size_t in_stride = static_cast<std::size_t>(picture.width) * 3;
  const std::size_t stride = static_cast<std::size_t>(window.width) * 3;

  std::vector<std::uint8_t> narrowed(static_cast<std::size_t>(rows) * stride);
  for (std::size_t y = 0; y < static_cast<std::size_t>(rows); ++y) {
    const std::uint8_t* row =
        picture.rgb.data() + (static_cast<std::size_t>(first_row) + y) * in_stride;
    for (std::size_t x = 0; x < across.taps.size(); ++x) {
      const auto [first, count] = across.taps[x];
      for (std::size_t c = 0; c < 3; ++c) {
        narrowed[y * stride + x * 3 + c] =
            weighted(row + static_cast<std::size_t>(first) * 3 + c, 3, across.weights_of(x), count);
      }
    }
  }

  Picture result{window.width, window.height, {}};
  result.rgb.resize(static_cast<std::size_t>(window.height) * stride);
  for (std::size_t y = 0; y < down.taps.size(); ++y) {
    const auto [first, count] = down.taps[y];
    const std::uint8_t* top =
        narrowed.data() + static_cast<std::size_t>(first - first_row) * stride;
    for (std::size_t x = 0; x < stride; ++x) {
      result.rgb[y * stride + x] = weighted(top + x, stride, down.weights_of(y), count);
    }
  }
  return result;
}

Picture resize(const Picture& picture, int width, int height) {
  return resize_window(picture, width, height, {0, 0, width, height});
}

}  // namespace offramp
