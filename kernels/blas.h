// Convolution as im2col and a matrix product, and linear layers, by OpenBLAS on one thread.
//
// One sample a call: OpenBLAS picks its kernel by the size of the product, and a sample's answer
// must not depend on the batch it is in.
#pragma once

#include <cstddef>

#include "kernels/shapes.h"

namespace offramp::blas {

/// matrix[group][kh*kw*in/groups][out/groups] <- w[out][in/groups][kh][kw]
void pack_conv(const ConvShape& shape, const float* weight, float* matrix);

/// Floats of working memory for conv2d: the unfolded input of one group.
std::size_t conv_scratch_floats(const ConvShape& shape);

/// Same meaning as KernelTable::conv2d; `matrix` comes from pack_conv(). skip may be y.
void conv2d(const ConvShape& shape, const float* x, const float* matrix, const Epilogue& epilogue,
            float* scratch, float* y);

/// y[out] <- relu?(w[out, in] x[in] + bias[out]); `weight` as in the model file.
void linear(int in, int out, const float* x, const float* weight, const Epilogue& epilogue,
            float* y);

}  // namespace offramp::blas
