// 64-bit Arm.
#include "kernels/tables/vector.h"
// The bodies use multiply_add, which has to be declared before.
#include "kernels/make_table.h"
#include "kernels/tables/tables.h"

namespace offramp {

// 6 x 4 sums of 4 floats, 4 weights and a pixel: 29 of 32 registers.
constinit const KernelTable kNeonKernels =
    make_table<xsimd::batch<float, xsimd::neon64>, 4, 6>("neon");

}  // namespace offramp
