// What the kernel bodies share: loops over vectors, shares of the work, addresses.
//
// The bodies (kernels/*_bodies.h) are written once for any vector type V: xsimd::batch of one
// instruction set, or Lane. The files in kernels/tables/ alone include them, each built with the
// flags of its instruction set. Everything is in an anonymous namespace and calls no inline
// function of the rest of the program: otherwise the linker could keep a copy built for a newer CPU
// and run it on an older one.
#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/lane.h"
#include "kernels/packing.h"

namespace {

using offramp::ConvShape;
using offramp::Epilogue;
using offramp::KernelTable;
using offramp::Part;
using offramp::PoolShape;

template <class V>
constexpr int kLanes = static_cast<int>(V::size);

/// Calls f(V{}, i) for the whole vectors in [0, count), then f(Lane{}, i) for the rest.
template <class V, class F>
inline void for_each_vector(int count, F f) {
  int i = 0;
  for (; i + kLanes<V> <= count; i += kLanes<V>) f(V(0.0f), i);
  for (; i < count; ++i) f(Lane(), i);
}

constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int round_up_division(int a, int b) { return (a + b - 1) / b; }
constexpr int round_up(int a, int b) { return round_up_division(a, b) * b; }
inline std::ptrdiff_t offset(int a, int b) { return static_cast<std::ptrdiff_t>(a) * b; }

/// The items [begin, end).
struct Range {
  int begin = 0, end = 0;
};

inline Range share_of(Part part, int items) {
  const std::ptrdiff_t n = items;
  return {static_cast<int>(n * part.index / part.count),
          static_cast<int>(n * (part.index + 1) / part.count)};
}

/// Two ways to share a matrix product: by rows, where every thread reads all weights, or by panels
/// of weights, where every thread reads all rows. The cheaper one shares what is larger.
struct Shares {
  Range rows, panels;
};

inline Shares share_product(Part part, int rows, double row_floats, int panels,
                            double panel_floats) {
  if (panels >= part.count && panels * panel_floats > rows * row_floats) {
    return {{0, rows}, share_of(part, panels)};
  }
  return {share_of(part, rows), {0, panels}};
}

// max(0, x) in this order: where one operand is NaN, x86 returns the second, and NaN must survive.
template <class V>
inline V rectify(V x) {
  return max(V(0.0f), x);
}

inline Epilogue shifted(const Epilogue& e, std::ptrdiff_t column, std::ptrdiff_t element) {
  return {e.bias ? e.bias + column : nullptr, e.skip ? e.skip + element : nullptr, e.relu};
}

}  // namespace
