// Keeps requests away from a node that does not serve them, and finds out with one request at a
// time when it does again.
//
//   closed --5 failures in a row--> open --after a while--> half-open --the probe is answered-->
//   closed
//                                    ^                         |
//                                    +--- twice as long -------+ the probe fails
#pragma once

#include <algorithm>
#include <chrono>
#include <random>

#include "net/message.h"
#include "net/poll.h"

namespace offramp {

enum class BreakerState { kClosed, kOpen, kHalfOpen };

class Breaker {
 public:
  static constexpr int kFailures = 5;
  static constexpr std::chrono::milliseconds kFirstPause{1000}, kLongestPause{30000};

  /// True when a request may be sent: all while closed, one while half-open.
  bool admits(Clock::time_point now) const { return !open_ || (now >= opens_at_ && !probing_); }
  BreakerState state(Clock::time_point now) const {
    if (!open_) return BreakerState::kClosed;
    return now >= opens_at_ ? BreakerState::kHalfOpen : BreakerState::kOpen;
  }
  /// Of the failure that opened it.
  Reason why() const { return why_; }

  /// A request goes out that admits() has let through. True when it is a probe: its end is told
  /// with it.
  [[nodiscard]] bool sent() {
    probing_ = open_;
    return open_;
  }
  void succeeded() {
    failures_ = 0;
    open_ = probing_ = false;
    pause_ = kFirstPause;
  }
  /// Of requests that were sent before it opened, no more is learned.
  void failed(Reason why, bool probe, Clock::time_point now, std::mt19937_64& random) {
    if (open_ && !probe) return;
    if (open_ || ++failures_ >= kFailures) trip(why, now, random);
  }
  /// Neither: the request was called back, or its own content is to blame.
  void undecided(bool probe) {
    if (probe) probing_ = false;
  }
  /// Opens, however many failures there were.
  void trip(Reason why, Clock::time_point now, std::mt19937_64& random) {
    why_ = why;
    open_ = true;
    probing_ = false;
    failures_ = 0;
    // A quarter more or less, so that those who lost the same node do not return at once.
    std::uniform_real_distribution<double> jitter(0.75, 1.25);
    opens_at_ = now + std::chrono::duration_cast<Clock::duration>(pause_ * jitter(random));
    pause_ = std::min(2 * pause_, kLongestPause);
  }
  /// There is reason to believe that the node is there again: one request may try it at once,
  /// unless one is trying it.
  void greeted(Clock::time_point now) { opens_at_ = std::min(opens_at_, now); }

 private:
  bool open_ = false, probing_ = false;
  int failures_ = 0;  ///< in a row
  Reason why_ = Reason::kNone;
  std::chrono::milliseconds pause_ = kFirstPause;
  Clock::time_point opens_at_{};  ///< to one probe
};

}  // namespace offramp
