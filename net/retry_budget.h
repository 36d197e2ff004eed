// How many requests may be sent a second time: a share of those that succeed, so that retries do
// not multiply the load of nodes that fail because of it.
#pragma once

#include <algorithm>

namespace offramp {

/// A bucket of 10 tokens. A retry takes one, a success gives back a tenth.
class RetryBudget {
 public:
  /// False when there is no whole token left.
  [[nodiscard]] bool take() {
    if (tenths_ < kToken) return false;
    tenths_ -= kToken;
    return true;
  }
  void succeeded() { tenths_ = std::min(tenths_ + 1, kMost * kToken); }
  double tokens() const { return tenths_ / static_cast<double>(kToken); }

 private:
  static constexpr int kMost = 10;
  static constexpr int kToken = 10;  ///< in successes
  int tenths_ = kMost * kToken;
};

}  // namespace offramp
