// Bytes on their way in one direction of one connection: delayed, rationed, changed, thrown away.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <random>
#include <span>
#include <vector>

#include "tests/chaos_proxy/settings.h"

namespace offramp::chaos {

using Clock = std::chrono::steady_clock;
using Random = std::mt19937_64;

/// What all connections of a direction share: a link has one rate, whoever uses it.
class Allowance {
 public:
  /// Bytes that may pass now; without a rate, any number.
  std::size_t at(Clock::time_point now, double rate);
  void spend(std::size_t bytes) { tokens_ -= static_cast<double>(bytes); }
  /// When at() has `kGrain` bytes again.
  Clock::time_point again(Clock::time_point now, double rate) const;

 private:
  static constexpr double kGrain = 1024.0;

  Clock::time_point filled_{};
  double tokens_ = 0.0;
};

class Flow {
 public:
  explicit Flow(std::uint64_t seed) : random_(seed), flips_(random_()) {}

  /// Takes what its sender has written. Bytes that are thrown away leave a hole.
  void take(std::span<const char> bytes, Clock::time_point now, const Settings& settings);
  /// Its sender will write no more.
  void end() { ended_ = true; }
  /// Throws away what is under way, and leaves a hole if that is anything.
  void lose();

  bool wants_more(const Settings& settings) const;
  /// What may go out now, at most `allowance` bytes; sent() takes it off.
  std::span<const char> ready(Clock::time_point now, std::size_t allowance) const;
  void sent(std::size_t bytes);
  /// When ready() has something next, as far as delays go; max() when there is nothing.
  Clock::time_point due() const;

  /// All that its sender has written has gone, and no more will come.
  bool finished() const { return ended_ && chunks_.empty(); }
  bool ended() const { return ended_; }
  bool has_hole() const { return hole_; }
  std::uint64_t corrupted() const { return corrupted_; }

 private:
  struct Chunk {
    Clock::time_point due;
    std::vector<char> bytes;
    std::size_t sent = 0;
  };

  /// Which bytes it changes, and to what, does not depend on the blocks in which they come.
  void corrupt(std::vector<char>& bytes, double probability);

  Random random_, flips_;
  double probability_ = 0.0;   ///< that `untouched_` was drawn for
  std::size_t untouched_ = 0;  ///< bytes before the next one that is changed
  std::deque<Chunk> chunks_;
  std::size_t waiting_ = 0;
  Clock::time_point last_due_{};
  bool ended_ = false, hole_ = false;
  std::uint64_t corrupted_ = 0;
};

}  // namespace offramp::chaos
