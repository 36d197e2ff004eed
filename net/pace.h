// How long a worker takes for a request, by what the last ones took.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "net/poll.h"

namespace offramp {

/// The median of the last 31: one that was held up changes nothing, and a change of pace is known
/// after 16.
class Pace {
 public:
  void add(Clock::duration service) {
    last_[count_++ % last_.size()] = service;
    const std::size_t known = std::min(count_, last_.size());
    std::array<Clock::duration, 31> sorted = last_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(known / 2);
    std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(known));
    median_ = *middle;
  }
  /// 0 before there is any.
  Clock::duration median() const { return median_; }

 private:
  std::array<Clock::duration, 31> last_{};
  std::size_t count_ = 0;
  Clock::duration median_{};
};

}  // namespace offramp
