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

constexpr int kLineFloats = 16;  // of a cache line

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

int divide_up(int value, int by) { return (value + by - 1) / by; }

// The size of about equal blocks of at most `most` rows that `count` rows divide into, of whole
// tiles: 2, 4, 6 and 12 rows, those of most kernel tables, divide this number.
constexpr int kWholeTiles = 12;

int even_block(int count, int most) {
  if (count <= most) return std::max(count, 1);
  return std::min(round_up(divide_up(count, divide_up(count, most)), kWholeTiles), most);
}

// Pixels that share a visit to a panel: enough to read the weights seldom (a byte or so for each
// multiply-add of a vector), few enough that their inputs stay in a second-level cache. Their
// pointers fill no more than half of a first-level cache.
constexpr int kMaxBlockRows = 72;
constexpr int kMaxPointers = 2048;

// Up to this many input channels the taps of conv2d are rows.
constexpr int kRowChannels = 32;

int max_block_rows(const ConvShape& shape) {
  return std::clamp(kMaxPointers / shape.taps(), 1, kMaxBlockRows);
}

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

// The rows of G for F(2, 3), F(4, 3) and F(6, 3).
constexpr double kG2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kG4[6][3] = {{1.0 / 4, 0, 0},
                              {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                              {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                              {1.0 / 24, 1.0 / 12, 1.0 / 6},
                              {1.0 / 24, -1.0 / 12, 1.0 / 6},
                              {0, 0, 1}};
constexpr double kG6[8][3] = {{1, 0, 0},
                              {-2.0 / 9, -2.0 / 9, -2.0 / 9},
                              {-2.0 / 9, 2.0 / 9, -2.0 / 9},
                              {1.0 / 90, 1.0 / 45, 2.0 / 45},
                              {1.0 / 90, -1.0 / 45, 2.0 / 45},
                              {32.0 / 45, 16.0 / 45, 8.0 / 45},
                              {32.0 / 45, -16.0 / 45, 8.0 / 45},
                              {0, 0, 1}};

// Patches whose transforms and products go through the caches together: as many as fill about half
// of a small second-level cache; and where the weights are larger than that, so that every block
// reads them again, half as much as those, up to the number at which reading them costs little.
constexpr std::size_t kBlockFloats = 48 * 1024;
constexpr std::size_t kLeastPatches = 12;
constexpr std::size_t kMostPatches = 72;

int max_block_patches(const ConvShape& shape, int tile, int columns) {
  const std::size_t points = static_cast<std::size_t>((tile + 2) * (tile + 2));
  const std::size_t patch =
      points * static_cast<std::size_t>(shape.in_channels + round_up(shape.out_channels, columns));
  const std::size_t weights = packed_winograd_floats(shape, tile, columns);
  const std::size_t floats = std::max(weights / 2, kBlockFloats);
  return static_cast<int>(std::clamp(floats / patch, kLeastPatches, kMostPatches));
}

}  // namespace

std::size_t packed_winograd_floats(const ConvShape& shape, int tile, int columns) {
  const std::size_t points = static_cast<std::size_t>((tile + 2) * (tile + 2));
  return points * packed_linear_floats(shape.in_channels, shape.out_channels, columns);
}

void pack_winograd(const ConvShape& shape, int tile, int columns, const float* weight,
                   float* packed) {
  const double(*g)[3] = tile == 2 ? kG2 : tile == 4 ? kG4 : kG6;
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

int winograd_block_patches(const ConvShape& shape, int tile, int columns, int patches) {
  return even_block(patches, max_block_patches(shape, tile, columns));
}

// An odd number of cache lines: the values of all points of a patch are written together, and at a
// power of two they would share one set of the first-level cache.
std::ptrdiff_t winograd_pitch(int patches, int channels) {
  return static_cast<std::ptrdiff_t>(divide_up(patches * channels, kLineFloats) | 1) * kLineFloats;
}

std::size_t winograd_scratch_floats(const ConvShape& shape, int samples, int tile, int columns) {
  const int patches =
      samples * divide_up(shape.out_height, tile) * divide_up(shape.out_width, tile);
  const int block = std::min(patches, max_block_patches(shape, tile, columns));
  const std::ptrdiff_t points = static_cast<std::ptrdiff_t>((tile + 2) * (tile + 2));
  const std::ptrdiff_t point = winograd_pitch(block, shape.in_channels) +
                               winograd_pitch(block, round_up(shape.out_channels, columns));
  const int zeros = round_up((tile * kWinogradStrip + 2) * shape.in_channels, kLineFloats);
  return static_cast<std::size_t>(zeros + points * point);
}

int product_block_rows(int rows) { return even_block(rows, kMaxBlockRows); }

int conv_block_rows(const ConvShape& shape, int rows) {
  return even_block(rows, max_block_rows(shape));
}

bool conv_reads_rows(const ConvShape& shape) {
  return shape.in_channels <= kRowChannels && shape.groups == 1 && shape.kernel_width > 1 &&
         shape.dilation_width == 1;
}

bool conv_is_product(const ConvShape& shape) {
  return shape.taps() == 1 && shape.stride_height == 1 && shape.stride_width == 1 &&
         shape.pad_height == 0 && shape.pad_width == 0 && shape.groups == 1;
}

std::size_t conv_scratch_floats(const ConvShape& shape) {
  if (conv_is_product(shape)) return 0;
  constexpr int kPointerFloats = static_cast<int>(sizeof(void*) / sizeof(float));
  const bool rows = conv_reads_rows(shape);
  const int block = max_block_rows(shape);
  const int reach = (rows ? shape.kernel_width : 1) * shape.in_channels;
  const int pointers = (rows ? shape.kernel_height : shape.taps()) * block * kPointerFloats;
  const int edges = rows ? shape.kernel_height * block * reach : 0;
  return static_cast<std::size_t>(round_up(reach, kLineFloats) + pointers + edges);
}

}  // namespace offramp
