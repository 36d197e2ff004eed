#include "net/policy.h"

namespace offramp {

const char* policy_name(Policy policy) {
  switch (policy) {
    case Policy::kBalanced:
      return "balanced";
    case Policy::kAnswerFirst:
      return "answer-first";
    case Policy::kStrict:
      return "strict";
    case Policy::kLocalOnly:
      return "local-only";
  }
  return "unknown";
}

std::optional<Policy> policy_named(std::string_view name) {
  for (const Policy policy :
       {Policy::kBalanced, Policy::kAnswerFirst, Policy::kStrict, Policy::kLocalOnly})
    if (name == policy_name(policy)) return policy;
  return {};
}

}  // namespace offramp
