#include "tools/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tools/output.h"

namespace offramp::cli {

Distribution distribution(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  const auto percentile = [&](double share) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * count));
    return values[std::clamp<std::size_t>(rank, 1, values.size()) - 1];
  };
  return {std::accumulate(values.begin(), values.end(), 0.0) / count, percentile(0.5),
          percentile(0.99)};
}

std::string format_times(const Distribution& microseconds) {
  return "mean " + format_ms(microseconds.mean) + ", p50 " + format_ms(microseconds.p50) +
         ", p99 " + format_ms(microseconds.p99);
}

}  // namespace offramp::cli
