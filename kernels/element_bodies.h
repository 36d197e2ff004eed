// Batch norm, ReLU, sums, pools, softmax and entropy for any vector type; see
// kernels/body_basics.h.
#pragma once

#include "kernels/body_basics.h"

namespace {

template <class V>
struct Elements {
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
