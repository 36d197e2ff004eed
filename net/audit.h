// How right an early exit is, told while it runs: a share of the samples that it is sure of is
// handed on all the same once the answer has left, and what the later tiers say is compared with
// it. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "net/message.h"

namespace offramp {

/// A decision that has been acted on, and what the rest of the cascade says to its sample.
struct Audited {
  Decision given;
  std::optional<Verdict> check{};  ///< none: it could not be had
  std::uint32_t sent_bytes = 0;    ///< to ask for it, both frames
};

struct AuditCounts {
  std::uint64_t asked = 0;    ///< samples that were handed on for it
  std::uint64_t checked = 0;  ///< of these, those that the rest of the cascade has answered
  std::uint64_t agreed = 0;   ///< of these, those that got the class which had been given
  /// Sum, over the checked, of the probability that the answering exit gives the class which had
  /// been given. As far as that exit is calibrated, this many of the early answers were right.
  double right = 0.0;
  std::uint64_t sent_bytes = 0;

  /// Estimated accuracy of the early answers, 0..1; wanted: checked > 0.
  double accuracy() const { return right / static_cast<double>(checked); }
};

struct Interval {
  double low, high;
};
/// That of 95 % confidence for the share of agreement (Wilson 1927); [0, 1] when nothing is
/// checked.
Interval agreement_interval(const AuditCounts& counts);

/// "5 of 6 sure answers that were checked have the class of a later exit (43.6 to 97.0 %),
/// estimated accuracy 91.2 %; 1 could not be checked; 114856 bytes more sent".
std::string audit_text(const AuditCounts& counts);

class Auditor {
 public:
  /// `share` of the sure answers, 0..1. Throws Error{kUsage}.
  explicit Auditor(double share);

  /// Whether the next one is among them.
  bool draws();
  /// What has become of one. True once every hundred that were checked: time to tell of it.
  bool take(const Audited& audited);
  const AuditCounts& counts() const { return counts_; }

 private:
  double share_;
  std::mt19937_64 random_;
  AuditCounts counts_;
};

}  // namespace offramp
