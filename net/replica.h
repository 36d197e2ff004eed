// One node of the next tier as its client sees it: the link, whether to send it anything, how long
// an answer is likely to take.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "net/breaker.h"
#include "net/channel.h"

namespace offramp {

/// How a link to a node of the next tier stands.
struct LinkStatus {
  std::string endpoint;
  LinkState state = LinkState::kConnecting;
  BreakerState breaker = BreakerState::kClosed;
  std::size_t away = 0;                     ///< requests that it has now
  int window = 0;                           ///< requests that it may have, its credits
  std::chrono::microseconds round_trip{0};  ///< 0 when not yet measured
  std::chrono::microseconds service{0};     ///< that it takes for a request; 0 when not known
  std::uint64_t sent = 0;                   ///< requests, second attempts included
  std::uint64_t answered = 0;               ///< of these, in time
  std::uint64_t failed = 0;                 ///< refused, lost or late
  std::uint64_t retried = 0;                ///< of the failed, those that another node got
};

class Replica {
 public:
  /// `id` tells it from all others there have been. `endpoint` is what it was found under; empty
  /// for a link made elsewhere.
  Replica(std::uint64_t id, std::string endpoint, std::unique_ptr<Channel> channel)
      : id_(id), endpoint_(std::move(endpoint)), channel_(std::move(channel)) {}

  std::uint64_t id() const { return id_; }
  const std::string& endpoint() const { return endpoint_; }
  const std::string& address() const { return channel_->endpoint(); }
  Channel& channel() { return *channel_; }
  const Channel& channel() const { return *channel_; }
  std::size_t away() const { return away_; }

  /// Why it is sent nothing now; kNone when it may be.
  Reason obstacle(Clock::time_point now) const;
  /// True when its window is all that is in the way, and an answer would make room.
  bool full(Clock::time_point now) const;
  /// True when a request that nobody waits for would be in nobody's way.
  bool has_room_to_spare(Clock::time_point now) const;
  /// From sending a request to its answer: the way, the queue there as far as is known, the work.
  std::chrono::microseconds predicted(Clock::time_point now) const;
  Clock::time_point last_sent() const { return last_sent_; }
  /// Nothing was sent for a second: what is known says little.
  bool overlooked(Clock::time_point now) const;
  /// True when predicted() is within `time`; or when it is overlooked, and one request is to find
  /// out.
  bool fits(Clock::duration time, Clock::time_point now) const;

  /// Its address is none of its endpoint's any more: it gets nothing new.
  void set_leaving(bool leaving) { leaving_ = leaving; }
  bool gone() const { return leaving_ && away_ == 0; }

  // What became of its requests. Each ends once; `probe` is what sent() said of it.
  [[nodiscard]] bool sent(Clock::time_point now);
  /// `verdict` came in time.
  void answered(const Verdict& verdict);
  void failed(Reason why, bool probe, Clock::time_point now, std::mt19937_64& random);
  /// Failed through no fault of its own, or was called back.
  void undecided(bool probe);
  /// No answer has come in the `time` that there was.
  void late(bool probe, Clock::duration time, Clock::time_point now, std::mt19937_64& random);
  void retried() { ++retried_; }

  /// It is not asked before.
  void pause_until(Clock::time_point time) { not_before_ = time; }
  void greeted(Clock::time_point now);
  /// Its link was serviced. When the way has become much shorter, a breaker that is open need not
  /// wait any longer.
  void look_at_link(Clock::time_point now);
  /// It is connected and does not answer.
  void silent(Clock::time_point now, std::mt19937_64& random) {
    if (breaker_.state(now) != BreakerState::kOpen) breaker_.trip(Reason::kPeerLost, now, random);
  }

  LinkStatus status(Clock::time_point now) const;

 private:
  std::chrono::microseconds service() const;
  double queue_at(Clock::time_point now) const;
  void measured(std::chrono::microseconds sample);

  std::uint64_t id_;
  std::string endpoint_;
  std::unique_ptr<Channel> channel_;
  Breaker breaker_;
  bool leaving_ = false;
  Clock::time_point not_before_{};
  std::size_t away_ = 0;
  /// Requests that waited there at `queued_at_`: what its last PONG said and what was sent since.
  double queue_ = 0.0;
  Clock::time_point queued_at_{}, last_sent_{};
  std::chrono::microseconds measured_{0};    ///< smoothed time in queue and stages
  std::chrono::microseconds round_trip_{0};  ///< when the link was looked at
  std::uint64_t sent_ = 0, answered_ = 0, failed_ = 0, retried_ = 0;
};

}  // namespace offramp
