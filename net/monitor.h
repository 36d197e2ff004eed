// What ZeroMQ tells of a socket's connections.
#pragma once

#include <cstdint>
#include <optional>

#include "net/poll.h"
#include "net/socket.h"

namespace offramp {

class SocketMonitor {
 public:
  struct Event {
    int type = 0;             ///< ZMQ_EVENT_...
    std::uint32_t value = 0;  ///< an errno, a ZMQ_PROTOCOL_ERROR_..., a status of ZAP
  };

  /// `events` is a mask of ZMQ_EVENT_...; before `watched` binds or connects.
  /// `watched` outlives this. Throws Error{kSystem}.
  SocketMonitor(const ZmqContext& context, ZmqSocket& watched, int events);
  ~SocketMonitor();
  SocketMonitor(const SocketMonitor&) = delete;
  SocketMonitor& operator=(const SocketMonitor&) = delete;

  /// Oldest first; none when there is nothing new.
  std::optional<Event> next();
  Waitable waitable() const { return {.socket = reader_.get()}; }

 private:
  ZmqSocket& watched_;
  ZmqSocket reader_;
};

/// Why a handshake failed, as far as the side that sees it can tell.
enum class HandshakeFailure {
  kMechanism,  ///< one side has keys and the other has none
  kServerKey,  ///< the client has another public key for the server, or the bytes were tampered
               ///< with
  kDenied,     ///< the server does not allow the client's key
  kProtocol,   ///< what came is not ZeroMQ's protocol
  kBroken,     ///< the connection ended, or nothing came in time
};

/// None for an event that is no failed handshake.
std::optional<HandshakeFailure> handshake_failure(const SocketMonitor::Event& event);

/// The events that handshake_failure() knows.
int handshake_failure_events();

}  // namespace offramp
