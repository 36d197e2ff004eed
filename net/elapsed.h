// Durations as the wire writes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "net/poll.h"

namespace offramp {

/// Microseconds in `duration`, at least 0 and at most what a u32 holds (71 minutes).
inline std::uint32_t to_us(Clock::duration duration) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(us, 0, std::numeric_limits<std::uint32_t>::max()));
}

inline std::uint32_t elapsed_us(Clock::time_point from, Clock::time_point to) {
  return to_us(to - from);
}

/// What a receiver may use of the time until `answer_by`: less the way there and back, and less
/// what timers and threads may be late.
inline constexpr std::chrono::milliseconds kTimerMargin{3};
inline Clock::duration budget_for_next(Clock::time_point now, Clock::time_point answer_by,
                                       std::chrono::microseconds round_trip) {
  return answer_by - now - round_trip - 2 * kTimerMargin;
}

}  // namespace offramp
