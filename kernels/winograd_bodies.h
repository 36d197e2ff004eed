// Winograd convolution for 3x3 kernels with stride 1, for any vector type; see kernels/bodies.h.
//
// F(m x m, 3x3) of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks":
//   y = A^T [ (G g G^T) * (B^T d B) ] A
// for input patches d of n x n pixels, n = m + 2, that overlap by two. The element-wise product,
// summed over input channels, is n*n independent matrix products of [patches, in] by [in, out].
#pragma once

#include "kernels/bodies.h"

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

/// `K` is the Kernels whose matrix product it uses.
template <class V, class K, template <class> class Transform>
struct Winograd {
  static constexpr int kColumns = K::kColumns;
  static constexpr int kOut = Transform<V>::kOut;
  static constexpr int kIn = Transform<V>::kIn;
  static constexpr int kPoints = kIn * kIn;

  static void conv2d(const ConvShape& s, const float* x, const float* packed, const Epilogue& e,
                     float* scratch, Part part, float* y) {
    const int across = round_up_division(s.out_width, kOut);
    const int patches = round_up_division(s.out_height, kOut) * across;
    const int block = offramp::winograd_block_patches(s, kOut, kColumns);
    const int out_pitch = round_up_division(s.out_channels, kColumns) * kColumns;
    float* zeros = scratch;
    float* transformed = zeros + round_up_division(s.in_channels, 16) * 16;
    float* products = transformed + offset(kPoints * block, s.in_channels);
    std::memset(zeros, 0, static_cast<std::size_t>(s.in_channels) * sizeof(float));

    const int end = end_of(part, patches);
    for (int first = begin_of(part, patches); first < end; first += block) {
      const int count = smaller(block, end - first);
      for (int p = 0; p < count; ++p) {
        const int top = (first + p) / across * kOut, left = (first + p) % across * kOut;
        transform_input(s, top, left, x, zeros, offset(block, s.in_channels),
                        transformed + offset(p, s.in_channels));
      }
      // products[point][patch][out] <- transformed[point][patch][in] * packed[point][in][out]
      for (int point = 0; point < kPoints; ++point) {
        K::matrix_product(count, s.in_channels, out_pitch,
                          transformed + offset(point * block, s.in_channels), s.in_channels,
                          packed + offset(point * s.in_channels, out_pitch), out_pitch,
                          products + offset(point * block, out_pitch));
      }
      for (int p = 0; p < count; ++p) {
        const int top = (first + p) / across * kOut, left = (first + p) % across * kOut;
        transform_output(s, top, left, offset(block, out_pitch), products + offset(p, out_pitch), e,
                         y);
      }
    }
  }

 private:
  /// out[point][in] <- B^T d B for the patch whose outputs begin at (top, left); `pitch` floats
  /// between points.
  static void transform_input(const ConvShape& s, int top, int left, const float* x,
                              const float* zeros, std::ptrdiff_t pitch, float* out) {
    const float* pixels[kIn][kIn];
    for (int i = 0; i < kIn; ++i) {
      const int iy = top - s.pad_height + i;
      const bool inside_y = iy >= 0 && iy < s.in_height;
      for (int j = 0; j < kIn; ++j) {
        const int ix = left - s.pad_width + j;
        const bool inside = inside_y && ix >= 0 && ix < s.in_width;
        pixels[i][j] = inside ? x + (offset(iy, s.in_width) + ix) * s.in_channels : zeros;
      }
    }
    for_each_vector<V>(s.in_channels, [&](auto kind, int c) {
      using W = decltype(kind);
      W half[kIn][kIn];
#pragma GCC unroll 8
      for (int j = 0; j < kIn; ++j) {
        W d[kIn], t[kIn];
#pragma GCC unroll 8
        for (int i = 0; i < kIn; ++i) d[i] = W::load_unaligned(pixels[i][j] + c);
        Transform<W>::input(d, t);
#pragma GCC unroll 8
        for (int i = 0; i < kIn; ++i) half[i][j] = t[i];
      }
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i) {
        W t[kIn];
        Transform<W>::input(half[i], t);
#pragma GCC unroll 8
        for (int j = 0; j < kIn; ++j) t[j].store_unaligned(out + (i * kIn + j) * pitch + c);
      }
    });
  }

  /// y[top.., left.., out] <- epilogue(A^T m A), clipped to the output.
  static void transform_output(const ConvShape& s, int top, int left, std::ptrdiff_t pitch,
                               const float* products, const Epilogue& e, float* y) {
    const int rows = smaller(kOut, s.out_height - top);
    const int columns = smaller(kOut, s.out_width - left);
    const std::ptrdiff_t origin = (offset(top, s.out_width) + left) * s.out_channels;
    for_each_vector<V>(s.out_channels, [&](auto kind, int c) {
      using W = decltype(kind);
      W half[kOut][kIn];
#pragma GCC unroll 8
      for (int j = 0; j < kIn; ++j) {
        W t[kIn], v[kOut];
#pragma GCC unroll 8
        for (int i = 0; i < kIn; ++i)
          t[i] = W::load_unaligned(products + (i * kIn + j) * pitch + c);
        Transform<W>::output(t, v);
#pragma GCC unroll 8
        for (int i = 0; i < kOut; ++i) half[i][j] = v[i];
      }
      const W bias = e.bias ? W::load_unaligned(e.bias + c) : W(0.0f);
#pragma GCC unroll 8
      for (int i = 0; i < kOut; ++i) {
        if (i == rows) break;
        W v[kOut];
        Transform<W>::output(half[i], v);
        const std::ptrdiff_t at = origin + offset(i, s.out_width) * s.out_channels + c;
#pragma GCC unroll 8
        for (int j = 0; j < kOut; ++j) {
          if (j == columns) break;
          W value = v[j] + bias;
          const std::ptrdiff_t pixel = at + offset(j, s.out_channels);
          if (e.skip) value = value + W::load_unaligned(e.skip + pixel);
          if (e.relu) value = rectify(value);
          value.store_unaligned(y + pixel);
        }
      }
    });
  }
};

}  // namespace
