// The peers that have said HELLO and been welcomed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "net/fronts.h"

namespace offramp {

struct Session {
  Clock::time_point heard{};
  std::uint8_t minor = 0;  ///< version of the peer
  // What follows is kept by Credits.
  std::uint16_t window = 0;            ///< requests that may be away, as the peer was told last
  std::uint16_t earlier_window = 0;    ///< and what it was told before that
  Clock::time_point window_changed{};  ///< from the earlier one to this
  Clock::time_point last_request{};
};

inline constexpr std::size_t kMaxSessionsOfOneKey = 64;

/// Bounded in number and in time: a peer that is silent for five minutes is forgotten, and told
/// NO_SESSION when it comes back. So is of more than 64 peers with one key the one that has been
/// silent for longest, lest one key keep all others out.
class Sessions {
 public:
  /// Notes that `peer` was heard. Null when it has no session; else valid until one is closed.
  Session* heard(const Peer& peer, Clock::time_point now);

  Session& open(const Peer& peer, Clock::time_point now);
  void close(const Peer& peer);

  /// True for a peer that has a session, and for a new one unless there are very many.
  bool has_room_for(const Peer& peer) const;

  /// Forgets silent peers. Cheap enough for every turn of a loop.
  void expire(Clock::time_point now);

  std::size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  std::vector<Peer> peers() const;
  /// Calls visit(const Peer&, Session&) for each; it opens and closes none.
  template <class Visit>
  void for_each(Visit visit) {
    for (auto& [key, of_key] : by_key_)
      for (auto& [peer, session] : of_key) visit(peer, session);
  }

 private:
  using OfKey = std::map<Peer, Session>;

  std::map<std::string, OfKey> by_key_;  ///< none is empty
  std::size_t count_ = 0;
  Clock::time_point next_expiry_{};
};

}  // namespace offramp
