// The metrics of a tier as somebody else reads them: fetched over HTTP, parsed, and turned into
// what `offramp top` shows.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "net/audit.h"
#include "tools/metrics_server.h"

namespace offramp::cli {

/// Prometheus's text format, as far as a node writes it.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;
  struct Sample {
    Labels labels;
    double value = 0.0;
  };

  /// Lines that make no sense are left out, as are values below 0 and those that are no number: a
  /// node has none.
  static Metrics parse(const std::string& text);

  /// All samples of a name; empty when there are none.
  const std::vector<Sample>& of(const std::string& name) const;
  /// The sum of those that have all of `labels`.
  double sum(const std::string& name, const Labels& labels = {}) const;
  /// A label of the only sample of a name; empty when it is not there.
  std::string label(const std::string& name, const std::string& label) const;

 private:
  std::map<std::string, std::vector<Sample>> samples_;
};

/// A counter's value, as large as one can be.
std::uint64_t whole_count(double value);

/// The value below which `share` of what was observed between two readings lies, by interpolation
/// within its bucket; none when nothing was observed. `before` may be empty.
std::optional<double> percentile(const Metrics& before, const Metrics& now,
                                 const std::string& histogram, double share);

/// What one reading of a tier came to.
struct Reading {
  std::chrono::steady_clock::time_point when{};
  std::optional<Metrics> metrics;
  std::string problem;  ///< why there are none
};

/// Fetches /metrics, within about two seconds.
Reading fetch(const HttpAddress& address);

/// What a tier says at `path` ("/health/ready"): empty when all is well, otherwise why it is not or
/// was not reached.
std::string fetch_health(const HttpAddress& address, const std::string& path);

/// A tier between two readings, or since it started when `before` has none.
struct TierView {
  struct Link {
    std::string peer, state, breaker;
    double away = 0.0, window = 0.0, round_trip_us = 0.0;
  };

  std::string address, tier, model;
  std::string state;  ///< "up", "draining", or why it was not reached
  bool reached = false;
  double answers = 0.0, rate = 0.0;  ///< all of them; a second
  double degraded = 0.0;             ///< share of the answers, 0 to 1
  double faults = 0.0, expired = 0.0, malformed = 0.0, denied = 0.0;  ///< all of them
  std::map<std::string, double> by_exit, by_reason;                   ///< answers
  std::optional<double> p50_us, p99_us;
  double queue = 0.0, in_work = 0.0, away = 0.0, sessions = 0.0;
  std::optional<double> batch;  ///< mean size
  std::vector<Link> links;
  AuditCounts audits;
};

TierView view_of(const HttpAddress& address, const Reading& before, const Reading& now);

}  // namespace offramp::cli
