// A vector of one float with the operations of xsimd::batch that the kernel bodies use: it finishes
// what is left over after the whole vectors, and makes the scalar table.
#pragma once

#include <cstddef>

namespace {

struct Lane {
  static constexpr std::size_t size = 1;
  float value = 0.0f;

  Lane() = default;
  explicit Lane(float v) : value(v) {}
  static Lane load_unaligned(const float* p) { return Lane(*p); }
  void store_unaligned(float* p) const { *p = value; }

  friend Lane operator+(Lane a, Lane b) { return Lane(a.value + b.value); }
  friend Lane operator-(Lane a, Lane b) { return Lane(a.value - b.value); }
  friend Lane operator*(Lane a, Lane b) { return Lane(a.value * b.value); }
  friend bool operator==(Lane a, Lane b) { return a.value == b.value; }
  friend bool operator>(Lane a, Lane b) { return a.value > b.value; }
  friend Lane max(Lane a, Lane b) { return a.value > b.value ? a : b; }
  friend Lane select(bool which, Lane a, Lane b) { return which ? a : b; }
  friend Lane exp(Lane a) { return Lane(__builtin_expf(a.value)); }
  friend Lane log(Lane a) { return Lane(__builtin_logf(a.value)); }
  friend Lane multiply_add(Lane a, Lane b, Lane c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return Lane(__builtin_fmaf(a.value, b.value, c.value));
#else
    return Lane(a.value * b.value + c.value);
#endif
  }
};

}  // namespace
