// What the kernel bodies ask of an xsimd batch beyond xsimd's own functions.
#pragma once

#include <xsimd/xsimd.hpp>

namespace {

/// a * b + c, rounded once where the instruction set can.
template <class Arch>
inline xsimd::batch<float, Arch> multiply_add(const xsimd::batch<float, Arch>& a,
                                              const xsimd::batch<float, Arch>& b,
                                              const xsimd::batch<float, Arch>& c) {
  return xsimd::fma(a, b, c);
}

}  // namespace
