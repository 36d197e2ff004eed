// What a tier does when quality, time and the next tier do not go together.
#pragma once

#include <optional>
#include <string_view>

namespace offramp {

enum class Policy {
  /// Hands on when the answer is likely to come in time, retries once, and otherwise gives the best
  /// answer there is, marked.
  kBalanced,
  /// Quick answers over best ones: hands on only when half of the time that is left is likely to
  /// do, and never retries.
  kAnswerFirst,
  /// Never a guess: the answer of the whole cascade in time, or none and the reason.
  kStrict,
  /// Never hands anything on.
  kLocalOnly,
};

const char* policy_name(Policy policy);  ///< "balanced", "answer-first", "strict", "local-only"
std::optional<Policy> policy_named(std::string_view name);

}  // namespace offramp
