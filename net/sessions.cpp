#include "net/sessions.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxSessions = 10000;
constexpr std::chrono::minutes kExpiry{5};
constexpr std::chrono::seconds kExpiryInterval{10};

}  // namespace

bool Sessions::heard(const Peer& peer, Clock::time_point now) {
  const auto known = heard_.find(peer);
  if (known == heard_.end()) return false;
  known->second = now;
  return true;
}

bool Sessions::has_room_for(const Peer& peer) const {
  return heard_.size() < kMaxSessions || heard_.contains(peer);
}

void Sessions::expire(Clock::time_point now) {
  if (now < next_expiry_) return;
  next_expiry_ = now + kExpiryInterval;
  std::erase_if(heard_, [now](const auto& session) { return now - session.second > kExpiry; });
}

std::vector<Peer> Sessions::peers() const {
  std::vector<Peer> all;
  for (const auto& [peer, heard] : heard_) all.push_back(peer);
  return all;
}

}  // namespace offramp
