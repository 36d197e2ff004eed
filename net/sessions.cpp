#include "net/sessions.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr std::size_t kMaxSessions = 10000;
constexpr std::chrono::minutes kExpiry{5};
constexpr std::chrono::seconds kExpiryInterval{10};

}  // namespace

Session* Sessions::heard(const Peer& peer, Clock::time_point now) {
  const auto of_key = by_key_.find(peer.key);
  if (of_key == by_key_.end()) return nullptr;
  const auto known = of_key->second.find(peer);
  if (known == of_key->second.end()) return nullptr;
  known->second.heard = now;
  return &known->second;
}

Session& Sessions::open(const Peer& peer, Clock::time_point now) {
  OfKey& of_key = by_key_[peer.key];
  if (!peer.key.empty() && of_key.size() >= kMaxSessionsOfOneKey && !of_key.contains(peer)) {
    of_key.erase(std::ranges::min_element(
        of_key, {}, [](const auto& session) { return session.second.heard; }));
    --count_;
  }
  const auto [session, is_new] = of_key.insert_or_assign(peer, Session{.heard = now});
  if (is_new) ++count_;
  return session->second;
}

void Sessions::close(const Peer& peer) {
  const auto of_key = by_key_.find(peer.key);
  if (of_key == by_key_.end()) return;
  count_ -= of_key->second.erase(peer);
  if (of_key->second.empty()) by_key_.erase(of_key);
}

bool Sessions::has_room_for(const Peer& peer) const {
  if (count_ < kMaxSessions) return true;
  const auto of_key = by_key_.find(peer.key);
  if (of_key == by_key_.end()) return false;
  const bool replaces = !peer.key.empty() && of_key->second.size() >= kMaxSessionsOfOneKey;
  return replaces || of_key->second.contains(peer);
}

void Sessions::expire(Clock::time_point now) {
  if (now < next_expiry_) return;
  next_expiry_ = now + kExpiryInterval;
  for (auto& [key, of_key] : by_key_)
    count_ -= std::erase_if(
        of_key, [now](const auto& session) { return now - session.second.heard > kExpiry; });
  std::erase_if(by_key_, [](const auto& of_key) { return of_key.second.empty(); });
}

std::vector<Peer> Sessions::peers() const {
  std::vector<Peer> all;
  for (const auto& [key, of_key] : by_key_)
    for (const auto& [peer, session] : of_key) all.push_back(peer);
  return all;
}

}  // namespace offramp
