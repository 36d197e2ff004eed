// The peers that have said HELLO and been welcomed.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "net/fronts.h"

namespace offramp {

/// Bounded in number and in time: a peer that is silent for five minutes is forgotten, and told
/// NO_SESSION when it comes back.
class Sessions {
 public:
  /// Notes that `peer` was heard. False when it has no session.
  bool heard(const Peer& peer, Clock::time_point now);

  void open(const Peer& peer, Clock::time_point now) { heard_[peer] = now; }
  void close(const Peer& peer) { heard_.erase(peer); }

  /// True for a peer that has a session, and for a new one unless there are very many.
  bool has_room_for(const Peer& peer) const;

  /// Forgets silent peers. Cheap enough for every turn of a loop.
  void expire(Clock::time_point now);

  bool empty() const { return heard_.empty(); }
  std::vector<Peer> peers() const;

 private:
  std::map<Peer, Clock::time_point> heard_;  ///< and when each was last heard
  Clock::time_point next_expiry_{};
};

}  // namespace offramp
