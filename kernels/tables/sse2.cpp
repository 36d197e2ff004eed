// Every x86-64 CPU.
#include "kernels/tables/vector.h"
// The bodies use multiply_add, which has to be declared before.
#include "kernels/make_table.h"
#include "kernels/tables/tables.h"

namespace offramp {

// 4 x 2 sums of 4 floats, 2 weights and a pixel: 11 of 16 registers; without FMA a product needs
// one.
constinit const KernelTable kSse2Kernels =
    make_table<xsimd::batch<float, xsimd::sse2>, 2, 4>("sse2");

}  // namespace offramp
