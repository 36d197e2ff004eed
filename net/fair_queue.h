// The requests that wait for a worker: bounded, in turns between devices, earliest deadline first
// within a device. Not thread-safe, and without a clock of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "net/job.h"

namespace offramp {

/// Whose turn a request takes: all connections with one key share one, without keys each connection
/// has its own.
std::string holder_of(const Peer& peer);

class FairQueue {
 public:
  explicit FairQueue(std::size_t capacity) : capacity_(capacity) {}

  std::size_t size() const { return size_; }
  bool full() const { return size_ >= capacity_; }

  /// True when the queue is full and another request of `peer` would be the one to go.
  bool refuses(const Peer& peer) const;

  /// Takes `job`. When the queue is full, gives back what has to go for it: the request with the
  /// latest deadline of the device that has most of them, or `job` itself.
  [[nodiscard]] std::optional<Job> push(Job job);

  /// How many of the waiting requests get their turn before another one of `peer` would.
  std::size_t ahead_of(const Peer& peer, Clock::time_point answer_by) const;

  struct Batch {
    std::vector<Job> jobs;   ///< to be computed together
    std::vector<Job> stale;  ///< to be dropped: they cannot be answered in time
  };
  /// What is to be computed now, 1 to `most` requests where any can be, when each takes `service`.
  /// As many as no deadline among them is missed by; what would be late even alone is dropped, the
  /// last one of such only when it has expired: it may be `service` that is wrong.
  Batch take(std::size_t most, Clock::time_point now, Clock::duration service);

  /// When take() is due: at once where `most` are there, else when the oldest has waited for
  /// `delay`, or when waiting any longer would miss a deadline. Wanted: not empty.
  Clock::time_point ripe(std::size_t most, Clock::duration delay, Clock::duration service) const;

  /// Moves what has expired to the end of `out`.
  void drop_expired(Clock::time_point now, std::vector<Job>& out);

  /// Removes a request. False when it does not wait here.
  bool erase(const Peer& peer, const RequestId& request);

 private:
  /// A deadline, then the order of arrival.
  using Place = std::pair<Clock::time_point, std::uint64_t>;
  struct Lane {
    std::string holder;
    std::map<Place, Job> jobs;  ///< never empty
  };
  using Lanes = std::list<Lane>;

  std::size_t held_by(const std::string& holder) const;
  Lanes::iterator fullest();
  /// Ends the lane with its last job.
  Job remove(Lanes::iterator lane, std::map<Place, Job>::iterator job);

  std::size_t capacity_;
  std::size_t size_ = 0;
  std::uint64_t arrivals_ = 0;
  Lanes lanes_;  ///< in the order of their turns
  std::map<std::string, Lanes::iterator> by_holder_;
};

}  // namespace offramp
