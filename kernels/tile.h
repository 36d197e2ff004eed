// The register tile under every matrix product: convolution, Winograd's products, linear layers.
#pragma once

#include "kernels/body_basics.h"

namespace {

/// A number of rows that the compiler knows.
template <int kCount>
struct Rows {
  static constexpr int kValue = kCount;
};

/// Calls f(Rows<R>) with the least R >= rows that is instantiated: every one up to 6, then the even
/// ones. 1 <= rows <= kMax.
template <int kMax, int kFrom = 1, class F>
inline __attribute__((always_inline)) void with_rows(int rows, F f) {
  if constexpr (kFrom >= kMax) {
    f(Rows<kMax>());
  } else {
    if (rows <= kFrom) {
      f(Rows<kFrom>());
    } else {
      with_rows<kMax, (kFrom < 6 ? kFrom + 1 : kFrom + 2)>(rows, f);
    }
  }
}

/// Divides `count` rows into as few tiles of at most kMax as there can be, of numbers of rows that
/// with_rows() has and that are as even as possible, and calls f(Rows<R>, first, rows, number,
/// tiles) for each of them, rows <= R. Even tiles lose least: one of fewer than four rows costs as
/// much time as one of four, because its sums wait for each other.
template <int kMax, class F>
inline __attribute__((always_inline)) void for_each_tile(int count, F f) {
  constexpr int kUnit = kMax > 6 ? 2 : 1;
  const int tiles = round_up_division(count, kMax);
  const int units = round_up_division(count, kUnit);
  const int most = round_up_division(units, tiles);
  const int whole = units - tiles * (most - 1);  // the others have a unit less
  int first = 0;
  for (int t = 0; t < tiles; ++t) {
    const int here = smaller((t < whole ? most : most - 1) * kUnit, count - first);
    with_rows<kMax>(
        here, [&](auto r) __attribute__((always_inline)) {
          constexpr int kTileRows = decltype(r)::kValue;
          f(r, first, kTileRows <= 6 ? kTileRows : here, t, tiles);
        });
    first += here;
  }
}

/// Floats that a later tile will read, weights or rows, to be fetched into the second-level cache
/// bit by bit while this one computes: `step` bytes further for each multiplication of a row by a
/// weight.
struct Ahead {
  const char* from = nullptr;
  std::ptrdiff_t step = 0;
};

/// Divides the fetching of `floats` floats among `tiles` tiles; this is number `tile`.
inline Ahead fetch_share(const float* from, std::ptrdiff_t floats, int depth, int tile, int tiles) {
  const std::ptrdiff_t bytes = floats * static_cast<std::ptrdiff_t>(sizeof(float)) / tiles;
  return {reinterpret_cast<const char*>(from) + tile * bytes, bytes / depth};
}

/// Rows of a tile at any places. Those past `rows` are not read: the last one stands in for them.
template <int kRows>
class ScatteredRows {
 public:
  inline __attribute__((always_inline))
  ScatteredRows(const float* const* rows, int count, std::ptrdiff_t at) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) row_[r] = rows[r < count ? r : count - 1] + at;
  }
  inline __attribute__((always_inline)) float at(int r) const { return row_[r][column_]; }
  inline __attribute__((always_inline)) void advance() { ++column_; }

 private:
  const float* row_[kRows];
  std::ptrdiff_t column_ = 0;
};

/// Rows that stand `pitch` floats apart. A pointer for every third one is enough, since an address
/// may hold a multiple of the pitch, so that all of them fit the registers; the last row has its
/// own, and stands in for one past `count`: count is kRows or kRows - 1, which for_each_tile() sees
/// to.
template <int kRows>
class PitchedRows {
 public:
  inline __attribute__((always_inline))
  PitchedRows(const float* first, int count, std::ptrdiff_t pitch)
      : pitch_(pitch), last_(first + (count - 1) * pitch) {
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) group_[g] = first + g * 3 * pitch;
    hide();
  }
  inline __attribute__((always_inline)) float at(int r) const {
    return r == kRows - 1 ? *last_ : group_[r / 3][r % 3 * pitch_];
  }
  inline __attribute__((always_inline)) void advance() {
    ++last_;
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) ++group_[g];
    hide();
  }

 private:
  static constexpr int kGroups = (kRows + 1) / 3;  // of the rows before the last

  // From the compiler, that these pointers have to do with each other: it would make one of all.
  inline __attribute__((always_inline)) void hide() {
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) asm("" : "+r"(group_[g]));
  }

  std::ptrdiff_t pitch_;
  const float* last_;
  const float* group_[kGroups > 0 ? kGroups : 1];
};

/// Tiles of outputs kVectors vectors wide, held in registers. Their columns are those of one panel
/// of weights, or of kVectors neighbouring panels that are a vector wide each.
template <class V, int kVectors>
struct Tile {
  static constexpr int kColumns = kVectors * kLanes<V>;

  /// sum[r][c] <- sum over t, k of a[t*a_pitch + r][k] * w[t][k][c], in this order whatever the
  /// number of rows. Vector v of the weights of (t, k) stands at packed + (t*depth + k)*step +
  /// v*spacing. Row pointers past `rows` are not read; the last row stands in for them.
  template <int kRows>
  static inline __attribute__((always_inline)) void multiply(int rows, int taps, int depth,
                                                             const float* const* a, int a_pitch,
                                                             std::ptrdiff_t a_offset,
                                                             const float* packed, int step,
                                                             std::ptrdiff_t spacing, Ahead ahead,
                                                             V (&sum)[kRows][kVectors]) {
    clear(sum);
    for (int t = 0; t < taps; ++t) {
      accumulate<true>(depth, ScatteredRows<kRows>(a, rows, a_offset), packed, step, spacing, ahead,
                       sum);
      a += a_pitch;
      ahead.from += depth * ahead.step;
      packed += offset(depth, step);
    }
  }

  /// The same for one tap whose rows stand `pitch` floats apart; nothing is fetched where
  /// ahead.step is 0.
  template <int kRows>
  static inline __attribute__((always_inline)) void multiply_rows(
      int rows, int depth, const float* a, std::ptrdiff_t pitch, const float* packed, int step,
      std::ptrdiff_t spacing, Ahead ahead, V (&sum)[kRows][kVectors]) {
    clear(sum);
    const PitchedRows<kRows> row(a, rows, pitch);
    if (ahead.step == 0) {
      accumulate<false>(depth, row, packed, step, spacing, ahead, sum);
    } else {
      accumulate<true>(depth, row, packed, step, spacing, ahead, sum);
    }
  }

  template <int kRows>
  static inline __attribute__((always_inline)) void clear(V (&sum)[kRows][kVectors]) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V(0.0f);
    }
  }

  template <bool kFetch, int kRows, class R>
  static inline __attribute__((always_inline)) void accumulate(int depth, R row,
                                                               const float* packed, int step,
                                                               std::ptrdiff_t spacing, Ahead ahead,
                                                               V (&sum)[kRows][kVectors]) {
    for (int k = 0; k < depth; ++k) {
      V w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) w[v] = V::load_unaligned(packed + v * spacing);
      packed += step;
      if constexpr (kFetch) {
        __builtin_prefetch(ahead.from, 0, 2);
        ahead.from += ahead.step;
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V x(row.at(r));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add(x, w[v], sum[r][v]);
      }
      row.advance();
    }
  }

  /// Stores the first `rows` rows and `columns` columns to y (and reads bias and skip) with `pitch`
  /// floats between rows.
  template <int kRows>
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
    // Unrolled, as every loop over sums: one at a changing place would keep all of them in memory.
    float spilled[kRows][kColumns];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v].store_unaligned(&spilled[r][v * kLanes<V>]);
    }
    store_part(rows, columns, spilled[0], e, pitch, y);
  }

  /// Not inlined, or its constants would take registers from the sums.
  static __attribute__((noinline)) void store_part(int rows, int columns, const float* sums,
                                                   const Epilogue& e, std::ptrdiff_t pitch,
                                                   float* y) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        float value = sums[r * kColumns + c] + (e.bias ? e.bias[c] : 0.0f);
        if (e.skip) value += e.skip[r * pitch + c];
        y[r * pitch + c] = e.relu ? rectify(Lane(value)).value : value;
      }
    }
  }

  /// Stores whole rows of sums as they are.
  template <int kRows>
  static inline __attribute__((always_inline)) void store_sums(int rows,
                                                               const V (&sum)[kRows][kVectors],
                                                               std::ptrdiff_t pitch, float* y) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r == rows) break;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v].store_unaligned(y + r * pitch + v * kLanes<V>);
    }
  }
};

}  // namespace
