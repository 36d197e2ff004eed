#include "engine/peak.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "kernels/kernels.h"

namespace offramp {

double measure_peak_macs(const KernelTable& kernels) {
  constexpr int kRounds = 20'000;
  constexpr auto kDuration = std::chrono::milliseconds(30);
  std::array<float, 12 * 16> sums{};
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = 0.001f * static_cast<float>(i);
  double best = 0.0;
  const auto end = std::chrono::steady_clock::now() + kDuration;
  for (auto now = std::chrono::steady_clock::now(); now < end;) {
    const auto begin = now;
    const double macs = kernels.saturate(kRounds, sums.data());
    now = std::chrono::steady_clock::now();
    best = std::max(best, macs / std::chrono::duration<double>(now - begin).count());
  }
  return best;
}

}  // namespace offramp
