// AVX2 and FMA: Haswell (2013), Zen (2017) and later.
#include "kernels/tables/vector.h"
// The bodies use multiply_add, which has to be declared before.
#include "kernels/make_table.h"
#include "kernels/tables/tables.h"

namespace offramp {

// 6 x 2 sums of 8 floats, 2 weights and a pixel: 15 of 16 registers; 12 sums hide the latency of
// two FMA units (2 x 4..5 cycles).
constinit const KernelTable kAvx2Kernels =
    make_table<xsimd::batch<float, xsimd::fma3<xsimd::avx2>>, 2, 6>("avx2");

}  // namespace offramp
