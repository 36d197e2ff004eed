// The kernels, written once for any vector type V (xsimd::batch of one instruction set, or Lane).
//
// Included by the files in kernels/tables/ only, each built with the flags of its instruction set.
// Everything is in an anonymous namespace and calls no inline function of the rest of the program:
// otherwise the linker could keep a copy built for a newer CPU and run it on an older one.
#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/lane.h"
#include "kernels/packing.h"

namespace {

using offramp::ConvShape;
using offramp::Epilogue;
using offramp::KernelTable;
using offramp::Part;
using offramp::PoolShape;

template <class V>
constexpr int kLanes = static_cast<int>(V::size);

/// Calls f(V{}, i) for the whole vectors in [0, count), then f(Lane{}, i) for the rest.
template <class V, class F>
inline void for_each_vector(int count, F f) {
  int i = 0;
  for (; i + kLanes<V> <= count; i += kLanes<V>) f(V(0.0f), i);
  for (; i < count; ++i) f(Lane(), i);
}

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int round_up_division(int a, int b) { return (a + b - 1) / b; }
constexpr int begin_of(Part part, int items) { return items * part.index / part.count; }
constexpr int end_of(Part part, int items) { return items * (part.index + 1) / part.count; }
inline std::ptrdiff_t offset(int a, int b) { return static_cast<std::ptrdiff_t>(a) * b; }

// max(0, x) in this order: where one operand is NaN, x86 returns the second, and NaN must survive.
template <class V>
inline V rectify(V x) {
  return max(V(0.0f), x);
}

/// A tile of outputs: kRows rows of kVectors vectors, held in registers. Its columns are those of
/// one panel of weights, or of kVectors neighbouring panels that are a vector wide each.
template <class V, int kRows, int kVectors>
struct Tile {
  static constexpr int kColumns = kVectors * kLanes<V>;

  /// sum[r][c] <- sum over t, k of a[t*kRows + r][k] * w[t][k][c]. Vector v of the weights of (t,
  /// k) stands at packed + (t*depth + k)*step + v*spacing.
  static inline __attribute__((always_inline)) void multiply(
      int taps, int depth, const float* const* a, std::ptrdiff_t a_offset, const float* packed,
      int step, std::ptrdiff_t spacing, V (&sum)[kRows][kVectors]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V(0.0f);
    }
    for (int t = 0; t < taps; ++t) {
      const float* row[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) row[r] = a[t * kRows + r] + a_offset;
      for (int k = 0; k < depth; ++k) {
        V w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) w[v] = V::load_unaligned(packed + v * spacing);
        packed += step;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const V x(row[r][k]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add(x, w[v], sum[r][v]);
        }
      }
    }
  }

  /// Stores the first `rows` rows and `columns` columns to y (and reads bias and skip) with `pitch`
  /// floats between rows.
  static inline __attribute__((always_inline)) void store(int rows, int columns,
                                                          const V (&sum)[kRows][kVectors],
                                                          const Epilogue& e, std::ptrdiff_t pitch,
                                                          float* y) {
    if (columns == kColumns) {
      V bias[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        bias[v] = e.bias ? V::load_unaligned(e.bias + v * kLanes<V>) : V(0.0f);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        if (r == rows) break;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          V value = sum[r][v] + bias[v];
          if (e.skip) value = value + V::load_unaligned(e.skip + r * pitch + v * kLanes<V>);
          if (e.relu) value = rectify(value);
          value.store_unaligned(y + r * pitch + v * kLanes<V>);
        }
      }
      return;
    }
    float spilled[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sum[r][v].store_unaligned(&spilled[r][v * kLanes<V>]);
    }
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        float value = spilled[r][c] + (e.bias ? e.bias[c] : 0.0f);
        if (e.skip) value += e.skip[r * pitch + c];
        y[r * pitch + c] = e.relu && !(value > 0.0f) && value == value ? 0.0f : value;
      }
    }
  }
};

inline Epilogue shifted(const Epilogue& e, std::ptrdiff_t column, std::ptrdiff_t element) {
  return {e.bias ? e.bias + column : nullptr, e.skip ? e.skip + element : nullptr, e.relu};
}

/// Fills pointers[tile][tap][row] with the input pixel that each tap of each output pixel reads:
/// `zeros` outside the input. Rows past the last pixel repeat it.
inline void point_at_input(const ConvShape& s, int first_pixel, int tiles, int rows, const float* x,
                           const float* zeros, const float** pointers) {
  const int taps = s.kernel_height * s.kernel_width;
  const int last_pixel = s.out_height * s.out_width - 1;
  for (int i = 0; i < tiles * rows; ++i) {
    const int pixel = smaller(first_pixel + i, last_pixel);
    const int top = pixel / s.out_width * s.stride_height - s.pad_height;
    const int left = pixel % s.out_width * s.stride_width - s.pad_width;
    const float** out = pointers + offset(i / rows, taps * rows) + i % rows;
    for (int kh = 0; kh < s.kernel_height; ++kh) {
      const int iy = top + kh * s.dilation_height;
      const bool inside_y = iy >= 0 && iy < s.in_height;
      for (int kw = 0; kw < s.kernel_width; ++kw) {
        const int ix = left + kw * s.dilation_width;
        const bool inside = inside_y && ix >= 0 && ix < s.in_width;
        *out = inside ? x + (offset(iy, s.in_width) + ix) * s.in_channels : zeros;
        out += rows;
      }
    }
  }
}

/// kPanelVectors vectors make a panel of weights. Tiles have kRows rows of one panel; where there
/// are two panels side by side and kWideRows is not 0, kWideRows rows of two.
template <class V, int kPanelVectors, int kRows, int kWideRows>
struct Kernels {
  static constexpr int kColumns = kPanelVectors * kLanes<V>;
  static_assert(kWideRows == 0 || kPanelVectors == 1, "a wide tile takes a vector from each panel");

  static void conv2d(const ConvShape& s, const float* x, const float* packed, const Epilogue& e,
                     float* scratch, Part part, float* y) {
    if constexpr (kWideRows > 0) {
      if (s.out_channels / s.groups > kColumns) {
        conv_tiles<kWideRows, 2>(s, x, packed, e, scratch, part, y);
        return;
      }
    }
    conv_tiles<kRows, 1>(s, x, packed, e, scratch, part, y);
  }

  static void depthwise_conv2d(const ConvShape& s, const float* x, const float* packed,
                               const Epilogue& e, Part part, float* y) {
    const int channels = s.in_channels;
    for (int oy = begin_of(part, s.out_height); oy < end_of(part, s.out_height); ++oy) {
      const int top = oy * s.stride_height - s.pad_height;
      for (int ox = 0; ox < s.out_width; ++ox) {
        const int left = ox * s.stride_width - s.pad_width;
        const std::ptrdiff_t at = (offset(oy, s.out_width) + ox) * channels;
        for_each_vector<V>(channels, [&](auto kind, int c) {
          using W = decltype(kind);
          W sum = e.bias ? W::load_unaligned(e.bias + c) : W(0.0f);
          for (int kh = 0; kh < s.kernel_height; ++kh) {
            const int iy = top + kh * s.dilation_height;
            if (iy < 0 || iy >= s.in_height) continue;
            for (int kw = 0; kw < s.kernel_width; ++kw) {
              const int ix = left + kw * s.dilation_width;
              if (ix < 0 || ix >= s.in_width) continue;
              const float* pixel = x + (offset(iy, s.in_width) + ix) * channels + c;
              const float* w = packed + offset(kh * s.kernel_width + kw, channels) + c;
              sum = multiply_add(W::load_unaligned(pixel), W::load_unaligned(w), sum);
            }
          }
          if (e.skip) sum = sum + W::load_unaligned(e.skip + at + c);
          if (e.relu) sum = rectify(sum);
          sum.store_unaligned(y + at + c);
        });
      }
    }
  }

  /// products[row][column] <- a[row][k] * packed[panel][k][column] for all panels; `a` and
  /// `products` have `a_pitch` and `pitch` floats between rows, and whole panels of columns.
  static void matrix_product(int rows, int depth, int columns, const float* a,
                             std::ptrdiff_t a_pitch, const float* packed, std::ptrdiff_t pitch,
                             float* products) {
    if constexpr (kWideRows > 0) {
      if (columns > kColumns) {
        product_tiles<kWideRows, 2>(rows, depth, columns, a, a_pitch, packed, pitch, products);
        return;
      }
    }
    product_tiles<kRows, 1>(rows, depth, columns, a, a_pitch, packed, pitch, products);
  }

  static void linear(int rows, int in, int out, const float* x, const float* packed,
                     const Epilogue& e, Part part, float* y) {
    const int panels = round_up_division(out, kColumns);
    const int begin = begin_of(part, panels) * kColumns;
    const int end = smaller(end_of(part, panels) * kColumns, out);
    int r = 0;
    for (; r + kRows <= rows; r += kRows) {
      linear_rows(in, out, begin, end, x + offset(r, in), packed, shifted(e, 0, offset(r, out)),
                  y + offset(r, out));
    }
    for (; r < rows; ++r) {
      linear_row(in, out, begin, end, x + offset(r, in), packed, shifted(e, 0, offset(r, out)),
                 y + offset(r, out));
    }
  }

  static void batch_norm(int pixels, int channels, const float* x, const float* scale,
                         const float* shift, float* y) {
    for (int p = 0; p < pixels; ++p, x += channels, y += channels) {
      for_each_vector<V>(channels, [&](auto kind, int c) {
        using W = decltype(kind);
        multiply_add(W::load_unaligned(x + c), W::load_unaligned(scale + c),
                     W::load_unaligned(shift + c))
            .store_unaligned(y + c);
      });
    }
  }

  static void relu(int count, const float* x, float* y) {
    for_each_vector<V>(count, [&](auto kind, int i) {
      using W = decltype(kind);
      rectify(W::load_unaligned(x + i)).store_unaligned(y + i);
    });
  }

  static void add(int count, const float* a, const float* b, bool relu, float* y) {
    for_each_vector<V>(count, [&](auto kind, int i) {
      using W = decltype(kind);
      W sum = W::load_unaligned(a + i) + W::load_unaligned(b + i);
      if (relu) sum = rectify(sum);
      sum.store_unaligned(y + i);
    });
  }

  static void max_pool(const PoolShape& s, const float* x, float* y) {
    pool(s, x, y, [&](auto kind, const float* pixel, const Window& w, float* out) {
      using W = decltype(kind);
      W best = W::load_unaligned(pixel);
      for_each_pixel(s, w,
                     [&](std::ptrdiff_t at) { best = max(best, W::load_unaligned(pixel + at)); });
      best.store_unaligned(out);
    });
  }

  static void average_pool(const PoolShape& s, const float* x, float* y) {
    pool(s, x, y, [&](auto kind, const float* pixel, const Window& w, float* out) {
      using W = decltype(kind);
      W sum(0.0f);
      for_each_pixel(s, w, [&](std::ptrdiff_t at) { sum = sum + W::load_unaligned(pixel + at); });
      const int divisor = s.count_include_pad ? w.padded_size : w.height * w.width;
      (sum * W(1.0f / static_cast<float>(divisor))).store_unaligned(out);
    });
  }

  static void global_average_pool(int pixels, int channels, const float* x, float* y) {
    for_each_vector<V>(channels, [&](auto kind, int c) {
      using W = decltype(kind);
      W sum(0.0f);
      for (int p = 0; p < pixels; ++p) sum = sum + W::load_unaligned(x + offset(p, channels) + c);
      (sum * W(1.0f / static_cast<float>(pixels))).store_unaligned(y + c);
    });
  }

  static void softmax(int count, const float* x, float* p) {
    float top = x[0];
    for (int i = 1; i < count; ++i) top = x[i] > top ? x[i] : top;
    float sum = 0.0f;
    for_each_vector<V>(count, [&](auto kind, int i) {
      using W = decltype(kind);
      const W e = exp(W::load_unaligned(x + i) - W(top));
      e.store_unaligned(p + i);
      sum += total(e);
    });
    for_each_vector<V>(count, [&](auto kind, int i) {
      using W = decltype(kind);
      (W::load_unaligned(p + i) * W(1.0f / sum)).store_unaligned(p + i);
    });
  }

  static float entropy(int count, const float* p) {
    float sum = 0.0f;
    for_each_vector<V>(count, [&](auto kind, int i) {
      using W = decltype(kind);
      const W q = W::load_unaligned(p + i);
      // Not `q > 0`: that would hide a NaN.
      sum += total(select(q == W(0.0f), W(0.0f), q * log(q)));
    });
    return sum == 0.0f ? 0.0f : -sum;
  }

 private:
  /// The part of a pooling window that lies inside the input.
  struct Window {
    int top, left, height, width;
    int padded_size;  ///< pixels of the window that lie inside input and padding
  };

  template <class W>
  static float total(W v) {
    float lanes[kLanes<W>];
    v.store_unaligned(lanes);
    float sum = 0.0f;
    for (int i = 0; i < kLanes<W>; ++i) sum += lanes[i];
    return sum;
  }

  template <int kTileRows, int kPanels>
  static void conv_tiles(const ConvShape& s, const float* x, const float* packed, const Epilogue& e,
                         float* scratch, Part part, float* y) {
    const int taps = s.kernel_height * s.kernel_width;
    const int group_out = s.out_channels / s.groups;
    const int panels = round_up_division(group_out, kColumns);
    const std::ptrdiff_t panel_floats = offset(taps * (s.in_channels / s.groups), kColumns);
    const int tiles = round_up_division(s.out_height * s.out_width, kTileRows);
    const int block_tiles = offramp::conv_block_tiles(taps, kTileRows);
    float* zeros = scratch;
    std::memset(zeros, 0, static_cast<std::size_t>(s.in_channels) * sizeof(float));
    const float** pointers =
        reinterpret_cast<const float**>(scratch + round_up_division(s.in_channels, 16) * 16);

    const int end = end_of(part, tiles);
    for (int first = begin_of(part, tiles); first < end; first += block_tiles) {
      const int count = smaller(block_tiles, end - first);
      point_at_input(s, first * kTileRows, count, kTileRows, x, zeros, pointers);
      for (int g = 0; g < s.groups; ++g) {
        const float* weights = packed + g * panels * panel_floats;
        for (int p = 0; p < panels; p += kPanels, weights += kPanels * panel_floats) {
          const ConvBlock block{first, count, g, p * kColumns, pointers, weights, panel_floats};
          if constexpr (kPanels > 1) {
            if (p + kPanels > panels) {
              conv_block<kTileRows, 1>(s, block, e, y);
              continue;
            }
          }
          conv_block<kTileRows, kPanels>(s, block, e, y);
        }
      }
    }
  }

  /// The part of a convolution that one visit to a panel (or two) computes.
  struct ConvBlock {
    int first_tile, tiles, group;
    int column;  ///< first output channel within the group
    const float** pointers;
    const float* weights;
    std::ptrdiff_t panel_floats;
  };

  template <int kTileRows, int kPanels>
  static void conv_block(const ConvShape& s, const ConvBlock& b, const Epilogue& e, float* y) {
    using Sums = Tile<V, kTileRows, kPanels * kPanelVectors>;
    const int taps = s.kernel_height * s.kernel_width;
    const int depth = s.in_channels / s.groups;
    const int group_out = s.out_channels / s.groups;
    const int columns = smaller(kPanels * kColumns, group_out - b.column);
    for (int t = 0; t < b.tiles; ++t) {
      const int pixel = (b.first_tile + t) * kTileRows;
      const int rows = smaller(kTileRows, s.out_height * s.out_width - pixel);
      const std::ptrdiff_t column = b.group * group_out + b.column;
      const std::ptrdiff_t at = offset(pixel, s.out_channels) + column;
      V sum[kTileRows][kPanels * kPanelVectors];
      Sums::multiply(taps, depth, b.pointers + offset(t, taps * kTileRows), offset(b.group, depth),
                     b.weights, kColumns, kPanels > 1 ? b.panel_floats : kLanes<V>, sum);
      Sums::store(rows, columns, sum, shifted(e, column, at), s.out_channels, y + at);
    }
  }

  template <int kTileRows, int kPanels>
  static void product_tiles(int rows, int depth, int columns, const float* a,
                            std::ptrdiff_t a_pitch, const float* packed, std::ptrdiff_t pitch,
                            float* products) {
    const std::ptrdiff_t panel_floats = offset(depth, kColumns);
    for (int column = 0; column < columns; column += kPanels * kColumns) {
      [[maybe_unused]] const bool whole = column + kPanels * kColumns <= columns;
      for (int r = 0; r < rows; r += kTileRows) {
        const float* row[kTileRows];
        for (int i = 0; i < kTileRows; ++i) row[i] = a + smaller(r + i, rows - 1) * a_pitch;
        const int count = smaller(kTileRows, rows - r);
        float* out = products + r * pitch + column;
        if constexpr (kPanels > 1) {
          if (!whole) {
            product_tile<kTileRows, 1>(count, depth, row, packed, panel_floats, pitch, out);
            continue;
          }
        }
        product_tile<kTileRows, kPanels>(count, depth, row, packed, panel_floats, pitch, out);
      }
      packed += kPanels * panel_floats;
    }
  }

  template <int kTileRows, int kPanels>
  static inline void product_tile(int rows, int depth, const float* const* row, const float* packed,
                                  std::ptrdiff_t panel_floats, std::ptrdiff_t pitch, float* out) {
    using Sums = Tile<V, kTileRows, kPanels * kPanelVectors>;
    V sum[kTileRows][kPanels * kPanelVectors];
    Sums::multiply(1, depth, row, 0, packed, kColumns, kPanels > 1 ? panel_floats : kLanes<V>, sum);
    Sums::store(rows, kPanels * kColumns, sum, {}, pitch, out);
  }

  static void linear_rows(int in, int out, int begin, int end, const float* x, const float* packed,
                          const Epilogue& e, float* y) {
    using Sums = Tile<V, kRows, kPanelVectors>;
    const float* row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = x + offset(r, in);
    for (int column = begin; column < end; column += kColumns) {
      V sum[kRows][kPanelVectors];
      Sums::multiply(1, in, row, 0, packed + offset(in, column), kColumns, kLanes<V>, sum);
      Sums::store(kRows, smaller(kColumns, out - column), sum, shifted(e, column, column), out,
                  y + column);
    }
  }

  /// One row has too few sums in a panel to hide the latency of the multiply-add: several panels at
  /// once. Each sum adds up in the same order as in linear_rows.
  static void linear_row(int in, int out, int begin, int end, const float* x, const float* packed,
                         const Epilogue& e, float* y) {
    constexpr int kPanels = larger(1, 8 / kPanelVectors);
    int column = begin;
    for (; column + (kPanels - 1) * kColumns < end; column += kPanels * kColumns) {
      linear_panels<kPanels>(in, out, column, x, packed, e, y);
    }
    for (; column < end; column += kColumns) {
      linear_panels<1>(in, out, column, x, packed, e, y);
    }
  }

  template <int kPanels>
  static void linear_panels(int in, int out, int column, const float* x, const float* packed,
                            const Epilogue& e, float* y) {
    V sum[kPanels][1][kPanelVectors];
    for (int p = 0; p < kPanels; ++p) {
      for (int v = 0; v < kPanelVectors; ++v) sum[p][0][v] = V(0.0f);
    }
    const float* weights = packed + offset(in, column);
    for (int k = 0; k < in; ++k) {
      const V pixel(x[k]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < kPanelVectors; ++v) {
          const float* w = weights + offset(p, in) * kColumns + v * kLanes<V>;
          sum[p][0][v] = multiply_add(pixel, V::load_unaligned(w), sum[p][0][v]);
        }
      }
      weights += kColumns;
    }
    for (int p = 0; p < kPanels; ++p, column += kColumns) {
      Tile<V, 1, kPanelVectors>::store(1, smaller(kColumns, out - column), sum[p],
                                       shifted(e, column, column), out, y + column);
    }
  }

  template <class F>
  static void for_each_pixel(const PoolShape& s, const Window& w, F f) {
    for (int iy = 0; iy < w.height; ++iy) {
      for (int ix = 0; ix < w.width; ++ix) f((offset(iy, s.in_width) + ix) * s.channels);
    }
  }

  template <class F>
  static void pool(const PoolShape& s, const float* x, float* y, F window) {
    for (int oy = 0; oy < s.out_height; ++oy) {
      const int top = oy * s.stride_height - s.pad_height;
      const int bottom = smaller(top + s.kernel_height, s.in_height + s.pad_height);
      for (int ox = 0; ox < s.out_width; ++ox) {
        const int left = ox * s.stride_width - s.pad_width;
        const int right = smaller(left + s.kernel_width, s.in_width + s.pad_width);
        Window w{larger(top, 0), larger(left, 0), 0, 0, (bottom - top) * (right - left)};
        w.height = smaller(bottom, s.in_height) - w.top;
        w.width = smaller(right, s.in_width) - w.left;
        const float* pixel = x + (offset(w.top, s.in_width) + w.left) * s.channels;
        float* out = y + (offset(oy, s.out_width) + ox) * s.channels;
        for_each_vector<V>(s.channels,
                           [&](auto kind, int c) { window(kind, pixel + c, w, out + c); });
      }
    }
  }
};

}  // namespace
