// Matrix products by packed weights, for any vector type; see kernels/body_basics.h.
#pragma once

#include "kernels/tile.h"

namespace {

/// The shape of a tile: rows at most, and panels of weights side by side.
template <int kMost, int kCount>
struct Span {
  static constexpr int kRows = kMost;
  static constexpr int kPanels = kCount;
};

/// kPanelVectors vectors make a panel of weights. Tiles have up to kRows rows of one panel; where
/// there are two panels side by side and kWideRows is not 0, up to kWideRows rows of two.
template <class V, int kPanelVectors, int kRows, int kWideRows>
struct Products {
  static constexpr int kColumns = kPanelVectors * kLanes<V>;
  static_assert(kWideRows == 0 || kPanelVectors == 1, "a wide tile takes a vector from each panel");

  /// Calls f(Span, first panel) for the panels in `range`, as many at once as a tile takes.
  template <class F>
  static inline __attribute__((always_inline)) void for_each_span(Range range, F f) {
    int p = range.begin;
    if constexpr (kWideRows > 0) {
      for (; p + 2 <= range.end; p += 2) f(Span<kWideRows, 2>(), p);
    }
    for (; p < range.end; ++p) f(Span<kRows, 1>(), p);
  }

  template <class S>
  using SpanTile = Tile<V, S::kPanels * kPanelVectors>;

  /// Floats between the vectors of a tile's weights, for panels of `panel_floats`.
  template <class S>
  static constexpr std::ptrdiff_t spacing(std::ptrdiff_t panel_floats) {
    return S::kPanels > 1 ? panel_floats : kLanes<V>;
  }

  /// products[row][column] <- a[row][k] * packed[panel][k][column] for whole panels in `range`,
  /// the first of which begins at products[row][0]. `a` and `products` have `a_pitch` and `pitch`
  /// floats between rows. With `fetch`, weights are fetched ahead: worth it where they are not in a
  /// cache.
  static void multiply(int rows, int depth, Range range, const float* a, std::ptrdiff_t a_pitch,
                       const float* packed, bool fetch, std::ptrdiff_t pitch, float* products) {
    const std::ptrdiff_t panel_floats = offset(depth, kColumns);
    for_each_span(
        range, [&](auto span, int panel) __attribute__((always_inline)) {
          using S = decltype(span);
          const float* weights = packed + panel * panel_floats;
          float* column = products + offset(panel - range.begin, kColumns);
          for_each_tile<S::kRows>(
              rows, [&](auto tile, int first, int count, int number,
                        int tiles) __attribute__((always_inline)) {
                V sum[decltype(tile)::kValue][S::kPanels * kPanelVectors];
                const std::ptrdiff_t span_floats = S::kPanels * panel_floats;
                const Ahead ahead =
                    fetch ? fetch_share(weights + span_floats, span_floats, depth, number, tiles)
                          : Ahead();
                SpanTile<S>::multiply_rows(count, depth, a + first * a_pitch, a_pitch, weights,
                                           kColumns, spacing<S>(panel_floats), ahead, sum);
                SpanTile<S>::store_sums(count, sum, pitch, column + first * pitch);
              });
        });
  }

  /// 12 sums and two factors: enough to hide the latency of two units, and no more than 16
  /// registers.
  static double saturate(int rounds, float* sums) {
    constexpr int kSums = 12;
    V sum[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sum[i] = V::load_unaligned(sums + i * kLanes<V>);
    const V factor(0.75f), term(0.25f);  // their fixed point is 1: no sum runs away or underflows
    for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
      for (int i = 0; i < kSums; ++i) sum[i] = multiply_add(factor, sum[i], term);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sum[i].store_unaligned(sums + i * kLanes<V>);
    return static_cast<double>(rounds) * kSums * kLanes<V>;
  }

  /// y[row][column] <- x[row][k] * packed[panel][k][column], and the epilogue, for `rows` rows and
  /// the columns of the panels in `panels`; `in` and `out` floats from row to row.
  static void multiply_and_store(int rows, int in, int out, Range panels, const float* x,
                                 const float* packed, const Epilogue& e, float* y) {
    const int block = offramp::product_block_rows(rows);
    for (int first = 0; first < rows; first += block) {
      const std::ptrdiff_t at = offset(first, out);
      product_block(smaller(block, rows - first), in, out, panels, x + offset(first, in), packed,
                    first > 0, shifted(e, 0, at), y + at);
    }
  }

  /// Fetches what the store of a tile will read and write; to be called before its sums are
  /// computed, where these take long enough: `terms` multiplications each.
  template <class S>
  static inline __attribute__((always_inline)) void fetch_outputs(int terms, int rows,
                                                                  const Epilogue& e,
                                                                  std::ptrdiff_t pitch, float* y) {
    constexpr int kLeastTerms = 48, kLineFloats = 16;
    if (terms < kLeastTerms) return;
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < S::kPanels * kColumns; c += kLineFloats) {
        __builtin_prefetch(y + r * pitch + c, 1, 3);
        if (e.skip) __builtin_prefetch(e.skip + r * pitch + c, 0, 3);
      }
    }
  }

  static void linear(int rows, int in, int out, const float* x, const float* packed,
                     const Epilogue& e, Part part, float* y) {
    const Range panels = share_of(part, round_up_division(out, kColumns));
    if (rows == 1) {
      linear_row(in, out, panels, x, packed, e, y);
    } else {
      multiply_and_store(rows, in, out, panels, x, packed, e, y);
    }
  }

 private:
  /// Rows that share a visit to the weights. Where these were read `before`, the first panels leave
  /// time to fetch the rows of the next tile.
  static __attribute__((noinline)) void product_block(int rows, int in, int out, Range panels,
                                                      const float* x, const float* packed,
                                                      bool before, const Epilogue& e, float* y) {
    const std::ptrdiff_t panel_floats = offset(in, kColumns);
    for_each_span(
        panels, [&](auto span, int panel) __attribute__((always_inline)) {
          using S = decltype(span);
          const int column = panel * kColumns;
          const int columns = smaller(S::kPanels * kColumns, out - column);
          for_each_tile<S::kRows>(
              rows, [&](auto tile, int first, int count, int number,
                        int tiles) __attribute__((always_inline)) {
                V sum[decltype(tile)::kValue][S::kPanels * kPanelVectors];
                const float* weights = packed + panel * panel_floats;
                const std::ptrdiff_t span_floats = S::kPanels * panel_floats;
                const Ahead ahead =
                    before && panel == panels.begin
                        ? fetch_share(x + offset(first + count, in), offset(count, in), in, 0, 1)
                        : fetch_share(weights + span_floats, span_floats, in, number, tiles);
                const std::ptrdiff_t at = offset(first, out) + column;
                const Epilogue here = shifted(e, column, at);
                fetch_outputs<S>(in, count, here, out, y + at);
                SpanTile<S>::multiply_rows(count, in, x + offset(first, in), in, weights, kColumns,
                                           spacing<S>(panel_floats), ahead, sum);
                SpanTile<S>::store(count, columns, sum, here, out, y + at);
              });
        });
  }

  /// One row has too few sums in a panel to hide the latency of the multiply-add: several panels at
  /// once. Each sum adds up in the same order as in a tile.
  static void linear_row(int in, int out, Range panels, const float* x, const float* packed,
                         const Epilogue& e, float* y) {
    constexpr int kPanels = larger(1, 8 / kPanelVectors);
    int p = panels.begin;
    for (; p + kPanels <= panels.end; p += kPanels) {
      linear_panels<kPanels>(in, out, p * kColumns, x, packed, e, y);
    }
    for (; p < panels.end; ++p) linear_panels<1>(in, out, p * kColumns, x, packed, e, y);
  }

  template <int kPanels>
  static void linear_panels(int in, int out, int column, const float* x, const float* packed,
                            const Epilogue& e, float* y) {
    V sum[kPanels][1][kPanelVectors];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
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
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p, column += kColumns) {
      Tile<V, kPanelVectors>::template store<1>(1, smaller(kColumns, out - column), sum[p],
                                                shifted(e, column, column), out, y + column);
    }
  }
};

}  // namespace
