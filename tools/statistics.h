// Means and percentiles of measured times.
#pragma once

#include <string>
#include <vector>

namespace offramp::cli {

struct Distribution {
  double mean = 0.0;
  double p50 = 0.0;
  double p99 = 0.0;
};

/// Nearest-rank percentiles; all 0 for no values.
Distribution distribution(std::vector<double> values);

/// "mean 0.71 ms, p50 0.70 ms, p99 0.93 ms" from microseconds.
std::string format_times(const Distribution& microseconds);

}  // namespace offramp::cli
