// The server side of a node's links: a ROUTER for TCP and any number of loopback cables, behind one
// address type.
#pragma once

#include <chrono>
#include <compare>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "net/channel.h"
#include "net/gate.h"
#include "net/loopback.h"
#include "net/socket.h"
#include "net/strikes.h"

namespace offramp {

/// Who sent a message and where its answer goes.
struct Peer {
  int cable = -1;          ///< index of a loopback cable; -1 for the ROUTER
  std::string routing_id;  ///< given by the ROUTER to each connection
  std::string key{};       ///< text of the key that the connection was made with; none without keys
  // clang-tidy takes the 0 that the default compares with for a null pointer.
  auto operator<=>(const Peer&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// How long messages are taken before timers and answers get their turn.
inline constexpr std::chrono::milliseconds kTurn{1};

/// Owned by one thread at a time.
class Fronts {
 public:
  /// Binds `endpoint`, behind `gate`, unless it is empty. Throws as Node does.
  Fronts(const std::string& endpoint, std::vector<Loopback*> cables, const DecodeLimits& limits,
         int window, Gate& gate);
  ~Fronts() { close(); }
  Fronts(const Fronts&) = delete;
  Fronts& operator=(const Fronts&) = delete;

  /// Sends what is left for at most half a second, lets go of address and cables. Nothing may be
  /// received or sent afterwards.
  void close();

  const std::string& endpoint() const { return endpoint_; }
  void waitables(std::vector<Waitable>& out) const;

  /// Opens or closes the gate to those who wait before it.
  void admit(Clock::time_point now) { gate_.serve(now); }
  /// When to do so though nobody waits.
  Clock::time_point due() const { return gate_.due(); }

  /// What has come, front after front; nullopt when there is nothing more.
  using Received = std::pair<Peer, std::variant<Message, Malformed>>;
  std::optional<Received> receive(Clock::time_point now);

  /// `peer` has sent what is no message. True when it has done so three times, and what it sends is
  /// dropped unread from now on; see Strikes.
  [[nodiscard]] bool strike(const Peer& peer, Clock::time_point now) {
    return strikes_.strike(connection_of(peer), now);
  }

  /// Never blocks. False when the peer has gone, does not read or is no longer allowed.
  bool send(const Peer& peer, Message message);

 private:
  void listen(const std::string& endpoint, int window);
  std::optional<Received> receive_from_router(Clock::time_point now);
  static std::string connection_of(const Peer& peer) { return peer.key + peer.routing_id; }

  Gate& gate_;
  Strikes strikes_;
  std::optional<ZmqContext> context_;
  std::optional<ZmqSocket> router_;
  Parts parts_;  ///< of the last message
  std::vector<Loopback*> cables_;
  DecodeLimits limits_;
  std::string endpoint_;
};

}  // namespace offramp
