#include "tools/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tools/output.h"

namespace offramp::cli {

double percentile(std::span<const double> sorted, double share) {
  if (sorted.empty()) return 0.0;
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

Distribution distribution(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          percentile(values, 0.5), percentile(values, 0.99)};
}

std::string format_times(const Distribution& microseconds) {
  return "mean " + format_ms(microseconds.mean) + ", p50 " + format_ms(microseconds.p50) +
         ", p99 " + format_ms(microseconds.p99);
}

}  // namespace offramp::cli
