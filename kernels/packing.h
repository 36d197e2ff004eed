// Weights in the order in which the kernels read them.
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
/// one group; `tile` is 2 or 4 (kernels/winograd_bodies.h).
std::size_t packed_winograd_floats(const ConvShape& shape, int tile, int columns);
void pack_winograd(const ConvShape& shape, int tile, int columns, const float* weight,
                   float* packed);

/// Working memory of KernelTable::winograd2 and winograd4, and how many patches go through it at
/// once.
std::size_t winograd_scratch_floats(const ConvShape& shape, int tile, int columns);
int winograd_block_patches(const ConvShape& shape, int tile, int columns);

/// Working memory of KernelTable::conv2d.
std::size_t conv_scratch_floats(const ConvShape& shape, int tile_rows);

/// Pointers in that memory: how many tiles of pixels share one visit to a panel of weights.
int conv_block_tiles(int taps, int tile_rows);

}  // namespace offramp
