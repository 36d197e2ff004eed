#include "net/credits.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr std::chrono::milliseconds kReviewInterval{100};
// A session without a request for so long does not count among those that share the room.
constexpr std::chrono::seconds kActive{2};
// Between two CREDITs to one session; and how long the window before is still good.
constexpr std::chrono::seconds kGrace{1};

// A share comes and goes with each device; a window follows when it is off by half.
bool outdated(std::uint16_t announced, std::uint16_t share, std::uint16_t whole) {
  return 2 * share <= announced || share >= 2 * announced || (share == whole && announced < whole);
}

}  // namespace

Credits::Credits(std::uint16_t window, std::size_t room)
    : window_(window), room_(room), share_(window) {}

std::uint16_t Credits::welcome(Session& session) const {
  // An older peer would keep for ever what it gets in a crowded moment.
  session.window = session.minor >= kMinorOfCredit ? share_ : window_;
  session.earlier_window = 0;
  return session.window;
}

bool Credits::allows(const Session& session, std::size_t here, Clock::time_point now) const {
  const bool grace = now - session.window_changed < kGrace;
  return here < std::max(session.window, grace ? session.earlier_window : std::uint16_t{0});
}

void Credits::used(Session& session, Clock::time_point now) {
  session.last_request = now;
  at_rest_ = false;
}

void Credits::review(Sessions& sessions, Clock::time_point now, std::vector<Change>& changes) {
  if (at_rest_ || now < next_review_) return;
  next_review_ = now + kReviewInterval;
  std::size_t active = 0;
  sessions.for_each([&](const Peer&, const Session& session) {
    if (now - session.last_request < kActive) ++active;
  });
  const std::size_t fair = room_ / std::max<std::size_t>(active, 1);
  share_ = static_cast<std::uint16_t>(std::clamp<std::size_t>(fair, 1, window_));
  at_rest_ = active == 0 && share_ == window_;
  sessions.for_each([&](const Peer& peer, Session& session) {
    if (session.minor < kMinorOfCredit) return;
    if (now - session.window_changed >= kGrace && outdated(session.window, share_, window_)) {
      session.earlier_window = session.window;
      session.window = share_;
      session.window_changed = now;
      changes.push_back({peer, share_});
    }
    if (session.window < window_) at_rest_ = false;
  });
}

}  // namespace offramp
