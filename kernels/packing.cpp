#include "kernels/packing.h"

#include <algorithm>
#include <cstring>

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

int conv_block_tiles(int taps, int tile_rows) {
  return std::clamp(kMaxPointers / (taps * tile_rows), 1, kMaxBlockTiles);
}

std::size_t conv_scratch_floats(const ConvShape& shape, int tile_rows) {
  const std::size_t pointers = static_cast<std::size_t>(conv_block_tiles(shape.taps(), tile_rows)) *
                               static_cast<std::size_t>(tile_rows) *
                               static_cast<std::size_t>(shape.taps());
  const std::size_t zeros = static_cast<std::size_t>(shape.in_channels + 15) / 16 * 16;
  return zeros + pointers * sizeof(const float*) / sizeof(float);
}

}  // namespace offramp
