// The peers that have said HELLO and been welcomed.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "net/fronts.h"

namespace offramp {

inline constexpr std::size_t kMaxSessionsOfOneKey = 64;

/// Bounded in number and in time: a peer that is silent for five minutes is forgotten, and told
/// NO_SESSION when it comes back. So is of more than 64 peers with one key the one that has been
/// silent for longest, lest one key keep all others out.
class Sessions {
 public:
  /// Notes that `peer` was heard. False when it has no session.
  bool heard(const Peer& peer, Clock::time_point now);

  void open(const Peer& peer, Clock::time_point now);
  void close(const Peer& peer);

  /// True for a peer that has a session, and for a new one unless there are very many.
  bool has_room_for(const Peer& peer) const;

  /// Forgets silent peers. Cheap enough for every turn of a loop.
  void expire(Clock::time_point now);

  bool empty() const { return count_ == 0; }
  std::vector<Peer> peers() const;

 private:
  using Heard = std::map<Peer, Clock::time_point>;  ///< when each was last heard

  std::map<std::string, Heard> by_key_;  ///< none is empty
  std::size_t count_ = 0;
  Clock::time_point next_expiry_{};
};

}  // namespace offramp
