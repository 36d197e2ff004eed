// Kernels that only move data: channels-last, one sample, the same on every instruction set.
#pragma once

namespace offramp {

/// y[height, width, c] <- x[c, height, width]
void to_channels_last(int channels, int height, int width, const float* x, float* y);

/// y[c, height, width] <- x[height, width, c]; also PyTorch's flatten of a channels-last tensor.
void to_channels_first(int channels, int height, int width, const float* x, float* y);

/// y[p, first + c] <- x[p, c] for `channels` of the `out_channels` of y: one part of a
/// concatenation.
void copy_channels(int pixels, int channels, const float* x, int first, int out_channels, float* y);

/// y[oh, ow, c] <- x[oh*sh, ow*sw, c]
void subsample(int channels, int height, int width, int stride_height, int stride_width,
               const float* x, float* y);

/// y[p, before + c] <- x[p, c], zero elsewhere.
void pad_channels(int pixels, int channels, int before, int after, const float* x, float* y);

}  // namespace offramp
