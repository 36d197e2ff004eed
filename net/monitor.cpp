#include "net/monitor.h"

#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

namespace offramp {
namespace {

constexpr std::size_t kEventBytes = 6;  // u16 type, u32 value, in the machine's byte order

// A context may have several.
std::string new_endpoint() {
  static std::atomic<unsigned> count{0};
  return "inproc://monitor-" + std::to_string(count++);
}

}  // namespace

SocketMonitor::SocketMonitor(const ZmqContext& context, ZmqSocket& watched, int events)
    : watched_(watched), reader_(context, ZMQ_PAIR) {
  reader_.set(ZMQ_LINGER, 0);
  // ZeroMQ's own thread waits when this queue is full, and with it all connections.
  reader_.set(ZMQ_RCVHWM, 0);
  const std::string endpoint = new_endpoint();
  if (zmq_socket_monitor(watched.get(), endpoint.c_str(), events) != 0 ||
      zmq_connect(reader_.get(), endpoint.c_str()) != 0)
    throw_zmq_error("socket monitor");
}

SocketMonitor::~SocketMonitor() { zmq_socket_monitor(watched_.get(), nullptr, 0); }

std::optional<SocketMonitor::Event> SocketMonitor::next() {
  std::vector<Bytes> parts;
  std::size_t count = 0;
  while (reader_.receive(parts, 2, count)) {
    if (parts[0].size() != kEventBytes) continue;
    std::uint16_t type = 0;
    Event event;
    std::copy_n(parts[0].begin(), sizeof type, reinterpret_cast<std::uint8_t*>(&type));
    std::copy_n(parts[0].begin() + sizeof type, sizeof event.value,
                reinterpret_cast<std::uint8_t*>(&event.value));
    event.type = type;
    return event;
  }
  return {};
}

std::optional<HandshakeFailure> handshake_failure(const SocketMonitor::Event& event) {
  if (event.type == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) return HandshakeFailure::kDenied;
  if (event.type == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) return HandshakeFailure::kBroken;
  if (event.type != ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL) return {};
  if (event.value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
    return HandshakeFailure::kMechanism;
  if (event.value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) return HandshakeFailure::kServerKey;
  return HandshakeFailure::kProtocol;
}

int handshake_failure_events() {
  return ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
         ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
}

}  // namespace offramp
