// AVX-512 F, BW, DQ, VL: Skylake-X (2017), Zen 4 (2022) and later.
#include <immintrin.h>

#include <xsimd/xsimd.hpp>

namespace {

using Batch = xsimd::batch<float, xsimd::avx512bw>;

// xsimd 8.1 has no fused multiply-add for AVX-512.
inline Batch multiply_add(const Batch& a, const Batch& b, const Batch& c) {
  return _mm512_fmadd_ps(a, b, c);
}

}  // namespace

// The bodies use multiply_add, which has to be declared before.
#include "kernels/make_table.h"
#include "kernels/tables/tables.h"

namespace offramp {

// A panel is one vector of 16, and not two, because the networks of the edge have layers of 16
// channels: for those 14 x 1 sums, the pixel broadcast by the multiply-add itself. Wider layers
// take 12 x 2 sums, which need half the loads for each multiply-add.
constinit const KernelTable kAvx512Kernels = make_table<Batch, 1, 14, 12>("avx512");

}  // namespace offramp
