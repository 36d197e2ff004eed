// Means and percentiles of measured times.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace offramp::cli {

struct Distribution {
  double mean = 0.0;
  double p50 = 0.0;
  double p99 = 0.0;
};

/// The least value that a `share` in (0, 1] of all are not above (nearest rank); 0 for no values.
double percentile(std::span<const double> sorted, double share);

/// Nearest-rank percentiles; all 0 for no values.
Distribution distribution(std::vector<double> values);

/// "mean 0.71 ms, p50 0.70 ms, p99 0.93 ms" from microseconds.
std::string format_times(const Distribution& microseconds);

}  // namespace offramp::cli
