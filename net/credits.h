// How many requests each session may have at a node: its share of the room there is, told in
// WELCOME and, when the node gets crowded or quiet, with CREDIT.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "net/sessions.h"

namespace offramp {

class Credits {
 public:
  /// A session gets 1 to `window` of the `room` requests that all of them may have here.
  Credits(std::uint16_t window, std::size_t room);

  /// Notes in `session` the window that WELCOME announces, and returns it.
  std::uint16_t welcome(Session& session) const;

  /// True when a session that has `here` requests here may have one more. Requests that its peer
  /// may have sent before it heard of a smaller window are within the one before.
  bool allows(const Session& session, std::size_t here, Clock::time_point now) const;

  /// `session` has sent a request.
  void used(Session& session, Clock::time_point now);

  struct Change {
    Peer peer;
    std::uint16_t window;
  };
  /// Appends the windows that have changed by so much that a CREDIT is due, once in a while. Cheap
  /// enough for every turn of a loop.
  void review(Sessions& sessions, Clock::time_point now, std::vector<Change>& changes);

 private:
  std::uint16_t window_;
  std::size_t room_;
  std::uint16_t share_;
  bool at_rest_ = true;  ///< nobody uses this node, and everybody has a whole window
  Clock::time_point next_review_{};
};

}  // namespace offramp
