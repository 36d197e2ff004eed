// Weights in the order in which the kernels read them, and the sizes of blocks and of scratch that
// kernels and plans agree on.
//
// A panel is `columns` output channels wide (KernelTable::tile_columns); the last one is filled up
// with zeros. Within a panel the weights of all its channels stand side by side for each (tap,
// input channel), so that the inner loop loads whole vectors.
#pragma once

#include <cstddef>

#include "kernels/shapes.h"

namespace offramp {

/// packed[group][panel][kh*kw][in/groups][columns] <- w[out][in/groups][kh][kw]
std::size_t packed_conv_floats(const ConvShape& shape, int columns);
void pack_conv(const ConvShape& shape, int columns, const float* weight, float* packed);

/// packed[kh*kw][channels] <- w[channels][1][kh][kw], for shape.depthwise()
std::size_t packed_depthwise_floats(const ConvShape& shape);
void pack_depthwise(const ConvShape& shape, const float* weight, float* packed);

/// packed[panel][in][columns] <- w[out][in]
std::size_t packed_linear_floats(int in, int out, int columns);
void pack_linear(int in, int out, int columns, const float* weight, float* packed);

/// packed[n*n points][panel][in][columns] <- G w G^T with n = tile + 2, for a 3x3 convolution of
/// one group; `tile` is 2, 4 or 6 (kernels/winograd_bodies.h).
std::size_t packed_winograd_floats(const ConvShape& shape, int tile, int columns);
void pack_winograd(const ConvShape& shape, int tile, int columns, const float* weight,
                   float* packed);

/// Working memory of KernelTable::winograd2, 4 and 6 for up to `samples` samples.
std::size_t winograd_scratch_floats(const ConvShape& shape, int samples, int tile, int columns);

/// Neighbouring patches that Winograd's kernels transform together, at most.
inline constexpr int kWinogradStrip = 8;

/// How many of `patches` patches go through that memory at once, and the floats there from point to
/// point for that many patches of `channels` channels.
int winograd_block_patches(const ConvShape& shape, int tile, int columns, int patches);
std::ptrdiff_t winograd_pitch(int patches, int channels);

/// Working memory of KernelTable::conv2d.
std::size_t conv_scratch_floats(const ConvShape& shape);

/// How many of `rows` rows of a matrix product share a visit to the weights.
int product_block_rows(int rows);

/// The same for output pixels of a convolution, whose pointers have to fit the first-level cache.
int conv_block_rows(const ConvShape& shape, int rows);

/// Whether a tap of conv2d is a row of the kernel and not a pixel: pays where few input channels
/// would make pixels short.
bool conv_reads_rows(const ConvShape& shape);

/// Whether conv2d is nothing but a matrix product: 1x1, every pixel, one group.
bool conv_is_product(const ConvShape& shape);

}  // namespace offramp
