// Winograd convolution for 3x3 kernels with stride 1, for any vector type; see
// kernels/body_basics.h.
//
// F(m x m, 3x3) of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks":
//   y = A^T [ (G g G^T) * (B^T d B) ] A
// for input patches d of n x n pixels, n = m + 2, that overlap by two. The element-wise product,
// summed over input channels, is n*n independent matrix products of [patches, in] by [in, out].
#pragma once

#include "kernels/product_bodies.h"

namespace {

/// One-dimensional transforms of F(2, 3), points 0, 1, -1, infinity.
template <class V>
struct Winograd2 {
  static constexpr int kOut = 2;
  static constexpr int kIn = 4;

  static inline void input(const V (&d)[kIn], V (&t)[kIn]) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  }
  static inline void output(const V (&t)[kIn], V (&y)[kOut]) {
    y[0] = t[0] + t[1] + t[2];
    y[1] = t[1] - t[2] - t[3];
  }
};

/// One-dimensional transforms of F(4, 3), points 0, 1, -1, 2, -2, infinity.
template <class V>
struct Winograd4 {
  static constexpr int kOut = 4;
  static constexpr int kIn = 6;

  static inline void input(const V (&d)[kIn], V (&t)[kIn]) {
    const V even = multiply_add(V(-4.0f), d[2], d[4]);
    const V odd = multiply_add(V(-4.0f), d[1], d[3]);
    const V even2 = d[4] - d[2];
    const V odd2 = d[3] - d[1];
    t[0] = multiply_add(V(4.0f), d[0], multiply_add(V(-5.0f), d[2], d[4]));
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = multiply_add(V(2.0f), odd2, even2);
    t[4] = multiply_add(V(-2.0f), odd2, even2);
    t[5] = multiply_add(V(4.0f), d[1], multiply_add(V(-5.0f), d[3], d[5]));
  }
  static inline void output(const V (&t)[kIn], V (&y)[kOut]) {
    const V even = t[1] + t[2], odd = t[1] - t[2];
    const V even2 = t[3] + t[4], odd2 = t[3] - t[4];
    y[0] = t[0] + even + even2;
    y[1] = multiply_add(V(2.0f), odd2, odd);
    y[2] = multiply_add(V(4.0f), even2, even);
    y[3] = multiply_add(V(8.0f), odd2, odd + t[5]);
  }
};

/// One-dimensional transforms of F(6, 3), points 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
template <class V>
struct Winograd6 {
  static constexpr int kOut = 6;
  static constexpr int kIn = 8;

  static inline void input(const V (&d)[kIn], V (&t)[kIn]) {
    t[0] = multiply_add(V(5.25f), d[4] - d[2], d[0] - d[6]);
    t[7] = multiply_add(V(5.25f), d[3] - d[5], d[7] - d[1]);
    const V even = multiply_add(V(-4.25f), d[4], d[2] + d[6]);
    const V odd = multiply_add(V(-4.25f), d[3], d[1] + d[5]);
    t[1] = even + odd;
    t[2] = even - odd;
    const V even2 = multiply_add(V(0.25f), d[2], multiply_add(V(-1.25f), d[4], d[6]));
    const V odd2 = multiply_add(V(0.5f), d[1], multiply_add(V(-2.5f), d[3], d[5] + d[5]));
    t[3] = even2 + odd2;
    t[4] = even2 - odd2;
    const V even3 = multiply_add(V(4.0f), multiply_add(V(-1.25f), d[4], d[2]), d[6]);
    const V odd3 = multiply_add(V(0.5f), d[5], multiply_add(V(-2.5f), d[3], d[1] + d[1]));
    t[5] = even3 + odd3;
    t[6] = even3 - odd3;
  }
  static inline void output(const V (&t)[kIn], V (&y)[kOut]) {
    const V even = t[1] + t[2], odd = t[1] - t[2];
    const V even2 = t[3] + t[4], odd2 = t[3] - t[4];
    const V even3 = t[5] + t[6], odd3 = t[5] - t[6];
    y[0] = (t[0] + even) + (even2 + even3);
    y[1] = multiply_add(V(0.5f), odd3, multiply_add(V(2.0f), odd2, odd));
    y[2] = multiply_add(V(0.25f), even3, multiply_add(V(4.0f), even2, even));
    y[3] = multiply_add(V(0.125f), odd3, multiply_add(V(8.0f), odd2, odd));
    y[4] = multiply_add(V(0.0625f), even3, multiply_add(V(16.0f), even2, even));
    y[5] = multiply_add(V(0.03125f), odd3, multiply_add(V(32.0f), odd2, odd + t[7]));
  }
};

/// `P` is the Products that it uses.
template <class V, class P, template <class> class Transform>
struct Winograd {
  static constexpr int kColumns = P::kColumns;
  static constexpr int kOut = Transform<V>::kOut;
  static constexpr int kIn = Transform<V>::kIn;
  static constexpr int kPoints = kIn * kIn;

  static void conv2d(const ConvShape& s, int samples, const float* x, const float* packed,
                     const Epilogue& e, float* scratch, Part part, float* y) {
    const int across = round_up_division(s.out_width, kOut);
    const int down = round_up_division(s.out_height, kOut);
    const int all_panels = round_up_division(s.out_channels, kColumns);
    const std::ptrdiff_t point_floats = offset(s.in_channels, all_panels * kColumns);
    const Shares shares =
        share_product(part, samples * down * across, kPoints * s.in_channels, all_panels,
                      static_cast<double>(kPoints) * s.in_channels * kColumns);
    const int columns = (shares.panels.end - shares.panels.begin) * kColumns;
    const int most =
        offramp::winograd_block_patches(s, kOut, kColumns, shares.rows.end - shares.rows.begin);
    const Layout in{s.in_channels, offramp::winograd_pitch(most, s.in_channels)};
    const Layout out{columns, offramp::winograd_pitch(most, columns)};
    const int zero_floats = round_up(kStripColumns * s.in_channels, 16);
    float* zeros = scratch;
    float* transformed = zeros + zero_floats;
    float* products = transformed + kPoints * in.pitch;
    std::memset(zeros, 0, static_cast<std::size_t>(zero_floats) * sizeof(float));
    const bool fetch = kPoints * point_floats > kFarWeights;

    for (int first = shares.rows.begin; first < shares.rows.end; first += most) {
      const int count = smaller(most, shares.rows.end - first);
      for_each_strip(first, count, down, across, [&](const Strip& strip, int patch) {
        const float* sample = x + offset(strip.sample * s.in_height, s.in_width) * s.in_channels;
        transform_input(s, strip, sample, zeros, in.pitch, transformed + offset(patch, in.row));
      });
      // products[point][patch][out] <- transformed[point][patch][in] * packed[point][in][out]
      for (int point = 0; point < kPoints; ++point) {
        P::multiply(count, s.in_channels, shares.panels, transformed + point * in.pitch, in.row,
                    packed + point * point_floats, fetch, out.row, products + point * out.pitch);
      }
      const int channel = shares.panels.begin * kColumns;
      const int channels = smaller(columns, s.out_channels - channel);
      for_each_strip(first, count, down, across, [&](const Strip& strip, int patch) {
        const std::ptrdiff_t at =
            offset(strip.sample * s.out_height, s.out_width) * s.out_channels + channel;
        transform_output(s, strip, channels, out, products + offset(patch, out.row),
                         shifted(e, channel, at), y + at);
      });
    }
  }

 private:
  /// Floats from patch to patch and from point to point.
  struct Layout {
    int row;
    std::ptrdiff_t pitch;
  };

  /// Neighbouring patches of a row of patches; the outputs of the first begin at (top, left).
  struct Strip {
    int sample, top, left, patches;
  };
  /// Floats of weights that do not stay in a second-level cache until the next run.
  static constexpr std::ptrdiff_t kFarWeights = 64 * 1024;
  /// As many as keep their half-transformed columns in a first-level cache.
  static constexpr int kMaxStrip = offramp::kWinogradStrip;
  static constexpr int kStripColumns = kOut * kMaxStrip + kIn - kOut;

  /// Calls f(strip, its first patch within the block) for the patches [first, first + count).
  template <class F>
  static void for_each_strip(int first, int count, int down, int across, F f) {
    for (int done = 0; done < count;) {
      const int row = (first + done) / across, column = (first + done) % across;
      const int patches = smaller(smaller(kMaxStrip, across - column), count - done);
      f(Strip{row / down, row % down * kOut, column * kOut, patches}, done);
      done += patches;
    }
  }

  /// out[point][patch][in] <- B^T d B
  static void transform_input(const ConvShape& s, const Strip& strip, const float* x,
                              const float* zeros, std::ptrdiff_t pitch, float* out) {
    const int columns = kOut * strip.patches + kIn - kOut;
    const int left = strip.left - s.pad_width;
    const int begin = smaller(larger(-left, 0), columns);
    const int end = larger(smaller(s.in_width - left, columns), begin);
    const float* rows[kIn];
    for (int i = 0; i < kIn; ++i) {
      const int iy = strip.top - s.pad_height + i;
      const bool inside = iy >= 0 && iy < s.in_height;
      rows[i] = inside ? x + (offset(iy, s.in_width) + left + begin) * s.in_channels : zeros;
    }
    // All vectors of a cache line in turn, so that it is written while it is at hand.
    constexpr int kVectors = larger(1, 16 / kLanes<V>);
    float half[kVectors][kStripColumns * kIn * kLanes<V>];
    const auto transform = [&](auto kind, int c, int vectors) {
      using W = decltype(kind);
      for (int v = 0; v < vectors; ++v) {
        transform_columns<W>(rows, c + v * kLanes<W>, s.in_channels, begin, end, columns, half[v]);
      }
      for (int p = 0; p < strip.patches; ++p) {
        for (int v = 0; v < vectors; ++v) {
          transform_rows<W>(half[v] + p * kOut * kIn * kLanes<W>, pitch,
                            out + offset(p, s.in_channels) + c + v * kLanes<W>);
        }
      }
    };
    int c = 0;
    for (; c + kLanes<V> <= s.in_channels; c += kVectors * kLanes<V>) {
      transform(V(0.0f), c, smaller(kVectors, (s.in_channels - c) / kLanes<V>));
    }
    for (c = s.in_channels / kLanes<V> * kLanes<V>; c < s.in_channels; ++c) transform(Lane(), c, 1);
  }

  /// half[column][i] <- B^T d for the columns of a strip: those in [begin, end) from channel c of
  /// `rows`, the others zero. A column serves both patches that it belongs to.
  template <class W>
  static inline void transform_columns(const float* const (&rows)[kIn], int c, int channels,
                                       int begin, int end, int columns, float* half) {
    constexpr int kColumn = kIn * kLanes<W>;
    std::memset(half, 0, static_cast<std::size_t>(begin * kColumn) * sizeof(float));
    std::memset(half + end * kColumn, 0,
                static_cast<std::size_t>((columns - end) * kColumn) * sizeof(float));
    half += begin * kColumn;
    std::ptrdiff_t at = c;
    // Not unrolled, here and below: the addresses of all steps would not fit the registers.
#pragma GCC unroll 1
    for (int j = begin; j < end; ++j, at += channels, half += kColumn) {
      W d[kIn], t[kIn];
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i) d[i] = W::load_unaligned(rows[i] + at);
      Transform<W>::input(d, t);
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i) t[i].store_unaligned(half + i * kLanes<W>);
    }
  }

  /// out[i*kIn + j] <- (half B)[i][j], `pitch` floats apart.
  template <class W>
  static inline void transform_rows(const float* half, std::ptrdiff_t pitch, float* out) {
#pragma GCC unroll 1
    for (int i = 0; i < kIn; ++i, half += kLanes<W>) {
      W d[kIn], t[kIn];
#pragma GCC unroll 8
      for (int j = 0; j < kIn; ++j) d[j] = W::load_unaligned(half + j * kIn * kLanes<W>);
      Transform<W>::input(d, t);
#pragma GCC unroll 8
      for (int j = 0; j < kIn; ++j, out += pitch) t[j].store_unaligned(out);
    }
  }

  /// y[top.., left.., out] <- epilogue(A^T m A), clipped to the output.
  static void transform_output(const ConvShape& s, const Strip& strip, int channels,
                               const Layout& layout, const float* products, const Epilogue& e,
                               float* y) {
    const int rows = smaller(kOut, s.out_height - strip.top);
    for (int p = 0; p < strip.patches; ++p, products += layout.row) {
      const int left = strip.left + p * kOut;
      const int columns = smaller(kOut, s.out_width - left);
      const std::ptrdiff_t at = (offset(strip.top, s.out_width) + left) * s.out_channels;
      const Epilogue here = shifted(e, 0, at);
      for_each_vector<V>(channels, [&](auto kind, int c) {
        using W = decltype(kind);
        float half[kOut * kIn * kLanes<W>];
        gather_columns<W>(products + c, layout.pitch, half);
        if (columns == kOut) {
          store_rows<W, true>(s, rows, kOut, half, shifted(here, c, c), y + at + c);
        } else {
          store_rows<W, false>(s, rows, columns, half, shifted(here, c, c), y + at + c);
        }
      });
    }
  }

  /// half[i][j] <- A^T m, from products `pitch` floats apart.
  template <class W>
  static inline void gather_columns(const float* products, std::ptrdiff_t pitch, float* half) {
#pragma GCC unroll 1
    for (int j = 0; j < kIn; ++j, products += pitch, half += kLanes<W>) {
      W t[kIn], v[kOut];
      const float* point = products;
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i, point += kIn * pitch) t[i] = W::load_unaligned(point);
      Transform<W>::output(t, v);
#pragma GCC unroll 8
      for (int i = 0; i < kOut; ++i) v[i].store_unaligned(half + i * kIn * kLanes<W>);
    }
  }

  /// y[i][j] <- epilogue((half A)[i][j]) for the first rows and columns of a patch.
  template <class W, bool kWhole>
  static inline void store_rows(const ConvShape& s, int rows, int columns, const float* half,
                                const Epilogue& e, float* y) {
    const std::ptrdiff_t pixel_floats = s.out_channels;
    const std::ptrdiff_t row_floats = s.out_width * pixel_floats;
    const float* const skip = e.skip;
    const bool relu = e.relu;
    const W bias = e.bias ? W::load_unaligned(e.bias) : W(0.0f);
    std::ptrdiff_t at = 0;
#pragma GCC unroll 1
    for (int i = 0; i < rows; ++i, at += row_floats, half += kIn * kLanes<W>) {
      W t[kIn], v[kOut];
#pragma GCC unroll 8
      for (int j = 0; j < kIn; ++j) t[j] = W::load_unaligned(half + j * kLanes<W>);
      t[1] = t[1] + bias;  // the point 1 reaches every output with the factor 1
      Transform<W>::output(t, v);
      std::ptrdiff_t pixel = at;
#pragma GCC unroll 8
      for (int j = 0; j < kOut; ++j, pixel += pixel_floats) {
        if (!kWhole && j == columns) break;
        if (skip) v[j] = v[j] + W::load_unaligned(skip + pixel);
        if (relu) v[j] = rectify(v[j]);
        v[j].store_unaligned(y + pixel);
      }
    }
  }
};

}  // namespace
