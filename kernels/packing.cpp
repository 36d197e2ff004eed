#include "kernels/packing.h"

#include <algorithm>
#include <vector>

namespace offramp {
namespace {

std::size_t panels(int out, int columns) {
  return static_cast<std::size_t>((out + columns - 1) / columns);
}

// packed[panel][taps][in][columns] <- w[out][in][taps]
void pack_panels(int out, int in, int taps, int columns, const float* weight, float* packed) {
  for (int first = 0; first < out; first += columns) {
    const int count = std::min(columns, out - first);
    for (int tap = 0; tap < taps; ++tap) {
      for (int i = 0; i < in; ++i) {
        for (int c = 0; c < columns; ++c) {
          const std::size_t row = static_cast<std::size_t>(first + c);
          const std::size_t at =
              (row * static_cast<std::size_t>(in) + static_cast<std::size_t>(i)) *
                  static_cast<std::size_t>(taps) +
              static_cast<std::size_t>(tap);
          *packed++ = c < count ? weight[at] : 0.0f;
        }
      }
    }
  }
}

// Half of a small first-level cache: enough to reuse a panel, little enough to stay there.
constexpr int kMaxPointers = 2048;
constexpr int kMaxBlockTiles = 8;

}  // namespace

std::size_t packed_conv_floats(const ConvShape& shape, int columns) {
  return static_cast<std::size_t>(shape.groups) * panels(shape.group_out(), columns) *
         static_cast<std::size_t>(columns) * static_cast<std::size_t>(shape.taps()) *
         static_cast<std::size_t>(shape.group_in());
}

void pack_conv(const ConvShape& shape, int columns, const float* weight, float* packed) {
  const std::size_t group_weights = static_cast<std::size_t>(shape.group_out()) *
                                    static_cast<std::size_t>(shape.group_in()) *
                                    static_cast<std::size_t>(shape.taps());
  const std::size_t group_packed =
      packed_conv_floats(shape, columns) / static_cast<std::size_t>(shape.groups);
  for (int g = 0; g < shape.groups; ++g) {
    pack_panels(shape.group_out(), shape.group_in(), shape.taps(), columns, weight, packed);
    weight += group_weights;
    packed += group_packed;
  }
}

std::size_t packed_depthwise_floats(const ConvShape& shape) {
  return static_cast<std::size_t>(shape.in_channels) * static_cast<std::size_t>(shape.taps());
}

void pack_depthwise(const ConvShape& shape, const float* weight, float* packed) {
  for (int tap = 0; tap < shape.taps(); ++tap) {
    for (int c = 0; c < shape.in_channels; ++c) *packed++ = weight[c * shape.taps() + tap];
  }
}

std::size_t packed_linear_floats(int in, int out, int columns) {
  return panels(out, columns) * static_cast<std::size_t>(columns) * static_cast<std::size_t>(in);
}

void pack_linear(int in, int out, int columns, const float* weight, float* packed) {
  pack_panels(out, in, 1, columns, weight, packed);
}

namespace {

// The rows of G for F(2, 3) and F(4, 3).
constexpr double kG2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kG4[6][3] = {{1.0 / 4, 0, 0},
                              {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                              {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                              {1.0 / 24, 1.0 / 12, 1.0 / 6},
                              {1.0 / 24, -1.0 / 12, 1.0 / 6},
                              {0, 0, 1}};

// Patches whose transforms and products fill about this many floats share a visit to the weights:
// few enough to stay in a first-level cache and a half when the weights are small; more, up to half
// of a second-level cache, when reading the weights again costs more than that.
constexpr std::size_t kSmallBlockFloats = 24 * 1024;
constexpr std::size_t kLargeBlockFloats = 256 * 1024;
// Whole tiles of every instruction set's height come near a multiple of this.
constexpr int kPatchMultiple = 12;

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

std::size_t packed_winograd_floats(const ConvShape& shape, int tile, int columns) {
  const std::size_t points = static_cast<std::size_t>((tile + 2) * (tile + 2));
  return points * packed_linear_floats(shape.in_channels, shape.out_channels, columns);
}

void pack_winograd(const ConvShape& shape, int tile, int columns, const float* weight,
                   float* packed) {
  const double(*g)[3] = tile == 2 ? kG2 : kG4;
  const int n = tile + 2;
  const std::size_t pairs =
      static_cast<std::size_t>(shape.in_channels) * static_cast<std::size_t>(shape.out_channels);
  std::vector<float> point(pairs);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      for (std::size_t p = 0; p < pairs; ++p) {
        double sum = 0.0;
        for (int kh = 0; kh < 3; ++kh) {
          for (int kw = 0; kw < 3; ++kw) {
            sum += g[i][kh] * g[j][kw] * weight[p * 9 + static_cast<std::size_t>(kh * 3 + kw)];
          }
        }
        point[p] = static_cast<float>(sum);
      }
      pack_linear(shape.in_channels, shape.out_channels, columns, point.data(), packed);
      packed += packed_linear_floats(shape.in_channels, shape.out_channels, columns);
    }
  }
}

int winograd_block_patches(const ConvShape& shape, int tile, int columns) {
  const int points = (tile + 2) * (tile + 2);
  const int patches =
      ((shape.out_height + tile - 1) / tile) * ((shape.out_width + tile - 1) / tile);
  const std::size_t patch =
      static_cast<std::size_t>(points) *
      static_cast<std::size_t>(shape.in_channels + round_up(shape.out_channels, columns));
  const std::size_t floats = std::clamp(packed_winograd_floats(shape, tile, columns),
                                        kSmallBlockFloats, kLargeBlockFloats);
  const int fit = static_cast<int>(floats / patch) / kPatchMultiple * kPatchMultiple;
  return std::min(std::max(fit, kPatchMultiple), patches);
}

std::size_t winograd_scratch_floats(const ConvShape& shape, int tile, int columns) {
  const int block = winograd_block_patches(shape, tile, columns);
  return static_cast<std::size_t>(round_up(shape.in_channels, 16)) +
         static_cast<std::size_t>((tile + 2) * (tile + 2)) * static_cast<std::size_t>(block) *
             static_cast<std::size_t>(shape.in_channels + round_up(shape.out_channels, columns));
}

int conv_block_tiles(int taps, int tile_rows) {
  return std::clamp(kMaxPointers / (taps * tile_rows), 1, kMaxBlockTiles);
}

std::size_t conv_scratch_floats(const ConvShape& shape, int tile_rows) {
  const int pointers = std::max(kMaxPointers, shape.taps() * tile_rows);
  return static_cast<std::size_t>(round_up(shape.in_channels, 16)) +
         static_cast<std::size_t>(pointers) * sizeof(const float*) / sizeof(float);
}

}  // namespace offramp
