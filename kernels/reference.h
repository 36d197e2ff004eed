// The slow twins: the shortest correct loops, for tests, fuzzers and the interpreter.
//
// Tensors are in PyTorch's order, float[channels, height, width], one sample, and weights as in the
// model file. Sums are accumulated in double and rounded once.
#pragma once

#include "kernels/shapes.h"

namespace offramp::reference {

/// y[oc, oh, ow] <- sum x[ic, oh*s - p + kh*d, ow*s - p + kw*d] * w[oc, ic, kh, kw] + bias[oc];
/// bias may be null.
void conv2d(const ConvShape& shape, const float* x, const float* weight, const float* bias,
            float* y);

/// y[out] <- w[out, in] x[in] + bias[out]; bias may be null.
void linear(int in, int out, const float* x, const float* weight, const float* bias, float* y);

/// y <- (x - mean) / sqrt(variance + epsilon) * weight + bias; weight and bias may be null.
void batch_norm(int channels, int pixels, const float* x, const float* weight, const float* bias,
                const float* mean, const float* variance, float epsilon, float* y);

void relu(int count, const float* x, float* y);
void add(int count, const float* a, const float* b, float* y);
void max_pool(const PoolShape& shape, const float* x, float* y);
void average_pool(const PoolShape& shape, const float* x, float* y);
void global_average_pool(int channels, int pixels, const float* x, float* y);

/// y[c, oh, ow] <- x[c, oh*sh, ow*sw]
void subsample(int channels, int height, int width, int stride_height, int stride_width,
               const float* x, float* y);

void softmax(int count, const float* x, float* p);
float entropy(int count, const float* p);

}  // namespace offramp::reference
