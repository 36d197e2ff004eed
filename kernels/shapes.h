// Geometry of the kernels. Sizes are of one sample; tensors are channels-last unless said
// otherwise.
#pragma once

namespace offramp {

/// A 2-d convolution in PyTorch's terms. Sizes are positive, `groups` divides both channel counts.
struct ConvShape {
  int in_channels = 0, in_height = 0, in_width = 0;
  int out_channels = 0, out_height = 0, out_width = 0;
  int kernel_height = 1, kernel_width = 1;
  int stride_height = 1, stride_width = 1;
  int pad_height = 0, pad_width = 0;
  int dilation_height = 1, dilation_width = 1;
  int groups = 1;

  int taps() const { return kernel_height * kernel_width; }
  int group_in() const { return in_channels / groups; }
  int group_out() const { return out_channels / groups; }
  int out_pixels() const { return out_height * out_width; }
  bool operator==(const ConvShape&) const = default;
  bool depthwise() const { return groups > 1 && group_in() == 1 && group_out() == 1; }
};

/// A pooling window. A window that reaches past the input (padding, ceil_mode) is clipped.
struct PoolShape {
  int channels = 0;
  int in_height = 0, in_width = 0;
  int out_height = 0, out_width = 0;
  int kernel_height = 1, kernel_width = 1;
  int stride_height = 1, stride_width = 1;
  int pad_height = 0, pad_width = 0;
  bool count_include_pad = true;  ///< average only: padding counts in the divisor
};

/// What happens to a convolution's or linear layer's sum before it is stored:
/// y[rows, cols] <- relu?(sum + bias[cols] + skip[rows, cols]). Null means absent; skip may be y.
struct Epilogue {
  const float* bias = nullptr;
  const float* skip = nullptr;
  bool relu = false;
};

/// A share of a kernel's output, for threads that compute it together: number `index` of `count`.
/// Which share an output falls into does not change its value.
struct Part {
  int index = 0;
  int count = 1;
};

}  // namespace offramp
