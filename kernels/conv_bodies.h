// Direct convolution for any vector type; see kernels/body_basics.h.
#pragma once

#include "kernels/product_bodies.h"

namespace {

/// What the taps of a convolution are: the pixels that its kernel covers; or, where there are few
/// input channels, its rows, each of kernel_width * in_channels floats that stand side by side.
struct Taps {
  bool rows;
  int count;
  int reach;  ///< neighbouring input floats of one tap
  int depth;  ///< those of one group among them

  explicit Taps(const ConvShape& s)
      : rows(offramp::conv_reads_rows(s)),
        count(rows ? s.kernel_height : s.kernel_height * s.kernel_width),
        reach(rows ? s.kernel_width * s.in_channels : s.in_channels),
        depth(reach / s.groups) {}
};

/// Memory of a convolution for the output pixels that it computes at once.
struct Pointing {
  const float* zeros;
  const float** pointers;  ///< [tap][pixel]
  int pitch;               ///< of the pointers, from tap to tap
  float* edges;
};

/// Fills pointers[tap*pitch + i], for `count` neighbouring pixels of an output row from (row,
/// column), with what the tap whose first input column is `kw` reads in the row of input at `x`. A
/// tap that reaches over the left or right edge is copied to `edges`, with zeros where it does.
inline float* point_along_row(const ConvShape& s, int depth, int column, int count, int kw,
                              const float* x, const float* zeros, const float** out, float* edges) {
  // Padding and strides times channels may leave the range of int.
  const std::ptrdiff_t width = offset(s.in_width, s.in_channels);
  const std::ptrdiff_t step = offset(s.stride_width, s.in_channels);
  const std::ptrdiff_t left =
      offset(column * s.stride_width - s.pad_width + kw * s.dilation_width, s.in_channels);
  for (int i = 0; i < count; ++i) out[i] = x + left + i * step;
  const auto within = [&](std::ptrdiff_t at) {
    return static_cast<int>(at < 0 ? 0 : at > depth ? depth : at);
  };
  const auto copy = [&](int i) {
    const std::ptrdiff_t from = left + i * step;
    const int begin = within(-from);
    const int end = larger(within(width - from), begin);
    if (begin == end) {
      out[i] = zeros;
      return;
    }
    std::memset(edges, 0, static_cast<std::size_t>(depth) * sizeof(float));
    std::memcpy(edges + begin, x + from + begin,
                static_cast<std::size_t>(end - begin) * sizeof(float));
    out[i] = edges;
    edges += depth;
  };
  int first = 0;
  for (; first < count && left + first * step < 0; ++first) copy(first);
  for (int i = count - 1; i >= first && left + i * step + depth > width; --i) copy(i);
  return edges;
}

/// The same for all taps of `count` output pixels from number `first` on, of several samples.
inline void point_at_input(const ConvShape& s, const Taps& taps, int first, int count,
                           const float* x, const Pointing& p) {
  const int columns = taps.rows ? 1 : s.kernel_width;
  float* edges = p.edges;
  for (int i = 0; i < count;) {
    const int row = (first + i) / s.out_width, column = (first + i) % s.out_width;
    const int run = smaller(s.out_width - column, count - i);
    const float* sample = x + offset(row / s.out_height * s.in_height, s.in_width) * s.in_channels;
    const float** out = p.pointers + i;
    for (int kh = 0; kh < s.kernel_height; ++kh) {
      const int iy = row % s.out_height * s.stride_height - s.pad_height + kh * s.dilation_height;
      const bool inside = iy >= 0 && iy < s.in_height;
      for (int kw = 0; kw < columns; ++kw, out += p.pitch) {
        if (inside) {
          const float* line = sample + offset(iy, s.in_width) * s.in_channels;
          edges = point_along_row(s, taps.reach, column, run, kw, line, p.zeros, out, edges);
        } else {
          for (int r = 0; r < run; ++r) out[r] = p.zeros;
        }
      }
    }
    i += run;
  }
}

/// `P` is the Products whose tiles it uses.
template <class V, class P>
struct Convolution {
  static constexpr int kColumns = P::kColumns;

  static void conv2d(const ConvShape& s, int samples, const float* x, const float* packed,
                     const Epilogue& e, float* scratch, Part part, float* y) {
    const Taps taps(s);
    const int panels = round_up_division(s.out_channels / s.groups, kColumns);
    const std::ptrdiff_t panel_floats = offset(taps.count * taps.depth, kColumns);
    const int pixels = s.out_height * s.out_width;
    const double in_floats = static_cast<double>(offset(s.in_height, s.in_width)) * s.in_channels;
    // The panels of all groups are one row of panels; a group reads its own input channels.
    const Shares shares = share_product(part, samples * pixels, in_floats / pixels,
                                        panels * s.groups, static_cast<double>(panel_floats));
    if (offramp::conv_is_product(s)) {
      const std::ptrdiff_t at = offset(shares.rows.begin, s.out_channels);
      P::multiply_and_store(shares.rows.end - shares.rows.begin, s.in_channels, s.out_channels,
                            shares.panels, x + offset(shares.rows.begin, s.in_channels), packed,
                            shifted(e, 0, at), y + at);
      return;
    }
    const int block = offramp::conv_block_rows(s, shares.rows.end - shares.rows.begin);
    const int zero_floats = round_up(taps.reach, 16);
    std::memset(scratch, 0, static_cast<std::size_t>(zero_floats) * sizeof(float));
    const float** pointers = reinterpret_cast<const float**>(scratch + zero_floats);
    const Pointing pointing{scratch, pointers, block,
                            reinterpret_cast<float*>(pointers + offset(taps.count, block))};

    for (int first = shares.rows.begin; first < shares.rows.end; first += block) {
      const int count = smaller(block, shares.rows.end - first);
      point_at_input(s, taps, first, count, x, pointing);
      for (int g = 0; g < s.groups; ++g) {
        const Range range = {larger(shares.panels.begin - g * panels, 0),
                             smaller(shares.panels.end - g * panels, panels)};
        const Block b{first, count, g, pointers, block, packed + g * panels * panel_floats};
        conv_block(s, taps, b, range, e, y);
      }
    }
  }

  static void depthwise_conv2d(const ConvShape& s, int samples, const float* x, const float* packed,
                               const Epilogue& e, Part part, float* y) {
    const int channels = s.in_channels;
    const Range rows = share_of(part, samples * s.out_height);
    for (int r = rows.begin; r < rows.end; ++r) {
      const float* sample = x + offset(r / s.out_height * s.in_height, s.in_width) * channels;
      const int top = r % s.out_height * s.stride_height - s.pad_height;
      for (int ox = 0; ox < s.out_width; ++ox) {
        const int left = ox * s.stride_width - s.pad_width;
        const std::ptrdiff_t at = (offset(r, s.out_width) + ox) * channels;
        for_each_vector<V>(channels, [&](auto kind, int c) {
          using W = decltype(kind);
          W sum = e.bias ? W::load_unaligned(e.bias + c) : W(0.0f);
          for (int kh = 0; kh < s.kernel_height; ++kh) {
            const int iy = top + kh * s.dilation_height;
            if (iy < 0 || iy >= s.in_height) continue;
            for (int kw = 0; kw < s.kernel_width; ++kw) {
              const int ix = left + kw * s.dilation_width;
              if (ix < 0 || ix >= s.in_width) continue;
              const float* pixel = sample + (offset(iy, s.in_width) + ix) * channels + c;
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

 private:
  /// Output pixels of one group that share a visit to its weights.
  struct Block {
    int first, count, group;
    const float* const* pointers;
    int pitch;  ///< of the pointers, from tap to tap
    const float* packed;
  };

  /// Computes the block's panels in `range`.
  static void conv_block(const ConvShape& s, const Taps& taps, const Block& b, Range range,
                         const Epilogue& e, float* y) {
    const std::ptrdiff_t panel_floats = offset(taps.count * taps.depth, kColumns);
    const int group_out = s.out_channels / s.groups;
    P::for_each_span(
        range, [&](auto span, int panel) __attribute__((always_inline)) {
          using S = decltype(span);
          const int columns = smaller(S::kPanels * kColumns, group_out - panel * kColumns);
          const std::ptrdiff_t column = b.group * group_out + panel * kColumns;
          for_each_tile<S::kRows>(
              b.count, [&](auto tile, int first, int count, int number,
                           int tiles) __attribute__((always_inline)) {
                using T = typename P::template SpanTile<S>;
                V sum[decltype(tile)::kValue][T::kColumns / kLanes<V>];
                const float* weights = b.packed + panel * panel_floats;
                const std::ptrdiff_t span_floats = S::kPanels * panel_floats;
                const Ahead ahead = fetch_share(weights + span_floats, span_floats,
                                                taps.count * taps.depth, number, tiles);
                const std::ptrdiff_t at = offset(b.first + first, s.out_channels) + column;
                const Epilogue here = shifted(e, column, at);
                P::template fetch_outputs<S>(taps.count * taps.depth, count, here, s.out_channels,
                                             y + at);
                T::multiply(count, taps.count, taps.depth, b.pointers + first, b.pitch,
                            offset(b.group, taps.depth), weights, kColumns,
                            P::template spacing<S>(panel_floats), ahead, sum);
                T::store(count, columns, sum, here, s.out_channels, y + at);
              });
        });
  }
};

}  // namespace
