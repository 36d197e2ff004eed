#include "kernels/reference.h"

#include <algorithm>
#include <cmath>

namespace offramp::reference {

void conv2d(const ConvShape& s, const float* x, const float* weight, const float* bias, float* y) {
  for (int oc = 0; oc < s.out_channels; ++oc) {
    const int first_channel = oc / s.group_out() * s.group_in();
    for (int oy = 0; oy < s.out_height; ++oy) {
      for (int ox = 0; ox < s.out_width; ++ox) {
        double sum = bias ? bias[oc] : 0.0;
        const float* w = weight + oc * s.group_in() * s.taps();
        for (int ic = 0; ic < s.group_in(); ++ic) {
          for (int kh = 0; kh < s.kernel_height; ++kh) {
            for (int kw = 0; kw < s.kernel_width; ++kw, ++w) {
              const int iy = oy * s.stride_height - s.pad_height + kh * s.dilation_height;
              const int ix = ox * s.stride_width - s.pad_width + kw * s.dilation_width;
              if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
              const int at = ((first_channel + ic) * s.in_height + iy) * s.in_width + ix;
              sum += static_cast<double>(x[at]) * *w;
            }
          }
        }
        *y++ = static_cast<float>(sum);
      }
    }
  }
}

void linear(int in, int out, const float* x, const float* weight, const float* bias, float* y) {
  for (int o = 0; o < out; ++o) {
    double sum = bias ? bias[o] : 0.0;
    for (int i = 0; i < in; ++i) sum += static_cast<double>(x[i]) * *weight++;
    y[o] = static_cast<float>(sum);
  }
}

void batch_norm(int channels, int pixels, const float* x, const float* weight, const float* bias,
                const float* mean, const float* variance, float epsilon, float* y) {
  for (int c = 0; c < channels; ++c) {
    const double scale =
        (weight ? weight[c] : 1.0) / std::sqrt(static_cast<double>(variance[c]) + epsilon);
    const double shift = (bias ? bias[c] : 0.0) - mean[c] * scale;
    for (int p = 0; p < pixels; ++p) *y++ = static_cast<float>(*x++ * scale + shift);
  }
}

void relu(int count, const float* x, float* y) {
  for (int i = 0; i < count; ++i) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

void add(int count, const float* a, const float* b, float* y) {
  for (int i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void max_pool(const PoolShape& s, const float* x, float* y) {
  for (int c = 0; c < s.channels; ++c, x += s.in_height * s.in_width) {
    for (int oy = 0; oy < s.out_height; ++oy) {
      for (int ox = 0; ox < s.out_width; ++ox) {
        float best = -INFINITY;
        for (int kh = 0; kh < s.kernel_height; ++kh) {
          for (int kw = 0; kw < s.kernel_width; ++kw) {
            const int iy = oy * s.stride_height - s.pad_height + kh;
            const int ix = ox * s.stride_width - s.pad_width + kw;
            if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
            best = std::max(best, x[iy * s.in_width + ix]);
          }
        }
        *y++ = best;
      }
    }
  }
}

void average_pool(const PoolShape& s, const float* x, float* y) {
  for (int c = 0; c < s.channels; ++c, x += s.in_height * s.in_width) {
    for (int oy = 0; oy < s.out_height; ++oy) {
      for (int ox = 0; ox < s.out_width; ++ox) {
        double sum = 0.0;
        int inside = 0, inside_padding = 0;
        for (int kh = 0; kh < s.kernel_height; ++kh) {
          for (int kw = 0; kw < s.kernel_width; ++kw) {
            const int iy = oy * s.stride_height - s.pad_height + kh;
            const int ix = ox * s.stride_width - s.pad_width + kw;
            if (iy >= s.in_height + s.pad_height || ix >= s.in_width + s.pad_width) continue;
            ++inside_padding;
            if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
            ++inside;
            sum += x[iy * s.in_width + ix];
          }
        }
        *y++ = static_cast<float>(sum / (s.count_include_pad ? inside_padding : inside));
      }
    }
  }
}

void global_average_pool(int channels, int pixels, const float* x, float* y) {
  for (int c = 0; c < channels; ++c) {
    double sum = 0.0;
    for (int p = 0; p < pixels; ++p) sum += *x++;
    y[c] = static_cast<float>(sum / pixels);
  }
}

void subsample(int channels, int height, int width, int stride_height, int stride_width,
               const float* x, float* y) {
  for (int c = 0; c < channels; ++c, x += height * width) {
    for (int iy = 0; iy < height; iy += stride_height) {
      for (int ix = 0; ix < width; ix += stride_width) *y++ = x[iy * width + ix];
    }
  }
}

void softmax(int count, const float* x, float* p) {
  const double top = *std::max_element(x, x + count);
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += std::exp(x[i] - top);
  for (int i = 0; i < count; ++i) p[i] = static_cast<float>(std::exp(x[i] - top) / sum);
}

float entropy(int count, const float* p) {
  double sum = 0.0;
  for (int i = 0; i < count; ++i) {
    if (p[i] != 0.0f) sum -= p[i] * std::log(static_cast<double>(p[i]));
  }
  return static_cast<float>(sum);
}

}  // namespace offramp::reference
