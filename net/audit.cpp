#include "net/audit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "engine/error.h"

namespace offramp {
namespace {

// Probability that the checking exit gives to the class that was given.
double probability_of(int label, const Verdict& check) {
  const auto index = static_cast<std::size_t>(label);
  if (index < check.probabilities.size()) return static_cast<double>(check.probabilities[index]);
  // It has sent its own class alone, of which at least this much is known.
  return label == check.decision.label ? static_cast<double>(check.decision.probability) : 0.0;
}

}  // namespace

Interval agreement_interval(const AuditCounts& counts) {
  if (counts.checked == 0) return {0.0, 1.0};
  constexpr double kZ = 1.959964;  // of 95 %
  const auto n = static_cast<double>(counts.checked);
  const double p = static_cast<double>(counts.agreed) / n;
  const double centre = (p + kZ * kZ / (2.0 * n)) / (1.0 + kZ * kZ / n);
  const double half =
      kZ / (1.0 + kZ * kZ / n) * std::sqrt(p * (1.0 - p) / n + kZ * kZ / (4.0 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

std::string audit_text(const AuditCounts& counts) {
  const Interval interval = agreement_interval(counts);
  std::array<char, 64> range{}, accuracy{};
  std::snprintf(range.data(), range.size(), " (%.1f to %.1f %%)", 100.0 * interval.low,
                100.0 * interval.high);
  if (counts.checked > 0)
    std::snprintf(accuracy.data(), accuracy.size(), ", estimated accuracy %.1f %%",
                  100.0 * counts.accuracy());
  const std::uint64_t missing = counts.asked - counts.checked;
  return std::to_string(counts.agreed) + " of " + std::to_string(counts.checked) +
         " sure answers that were checked have the class of a later exit" +
         (counts.checked > 0 ? std::string(range.data()) + accuracy.data() : std::string()) +
         (missing > 0 ? "; " + std::to_string(missing) + " could not be checked" : std::string()) +
         "; " + std::to_string(counts.sent_bytes) + " bytes more sent";
}

Auditor::Auditor(double share) : share_(share), random_(random_session()) {
  if (!(share >= 0.0 && share <= 1.0))
    throw Error(ErrorKind::kUsage,
                "audit: wanted a share from 0 to 1, found " + std::to_string(share));
}

bool Auditor::draws() {
  return share_ > 0.0 && std::uniform_real_distribution<double>()(random_) < share_;
}

bool Auditor::take(const Audited& audited) {
  ++counts_.asked;
  counts_.sent_bytes += audited.sent_bytes;
  if (!audited.check) return false;
  ++counts_.checked;
  counts_.agreed += audited.check->decision.label == audited.given.label ? 1 : 0;
  counts_.right += probability_of(audited.given.label, *audited.check);
  return counts_.checked % 100 == 0;
}

}  // namespace offramp
