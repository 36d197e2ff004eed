#include "kernels/layout.h"

#include <algorithm>
#include <cstddef>

namespace offramp {

void to_channels_last(int channels, int height, int width, const float* x, float* y) {
  const int pixels = height * width;
  for (int p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) *y++ = x[c * pixels + p];
  }
}

void to_channels_first(int channels, int height, int width, const float* x, float* y) {
  const int pixels = height * width;
  for (int c = 0; c < channels; ++c) {
    for (int p = 0; p < pixels; ++p) *y++ = x[p * channels + c];
  }
}

void copy_channels(int pixels, int channels, const float* x, int first, int out_channels,
                   float* y) {
  y += first;
  for (int p = 0; p < pixels; ++p, x += channels, y += out_channels) std::copy_n(x, channels, y);
}

void subsample(int channels, int height, int width, int stride_height, int stride_width,
               const float* x, float* y) {
  for (int iy = 0; iy < height; iy += stride_height) {
    for (int ix = 0; ix < width; ix += stride_width) {
      const std::ptrdiff_t at = (static_cast<std::ptrdiff_t>(iy) * width + ix) * channels;
      y = std::copy_n(x + at, channels, y);
    }
  }
}

void pad_channels(int pixels, int channels, int before, int after, const float* x, float* y) {
  for (int p = 0; p < pixels; ++p, x += channels) {
    y = std::fill_n(y, before, 0.0f);
    y = std::copy_n(x, channels, y);
    y = std::fill_n(y, after, 0.0f);
  }
}

}  // namespace offramp
