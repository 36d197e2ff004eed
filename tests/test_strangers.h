// For tests of a node's gate: a socket behind one, and strangers who knock with ZeroMQ or with
// bytes of their own.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "net/denials.h"
#include "net/gate.h"
#include "net/node.h"
#include "net/socket.h"
#include "net/zmq_channel.h"
#include "tests/test_wait.h"

namespace offramp::test {

/// An edge that runs all that follows the device, behind these keys.
NodeOptions locked(NodeKeys keys, const std::string& listen = "tcp://127.0.0.1:*");

std::uint64_t denied(const DenialCounts& counts, Denial reason);
std::uint64_t denied(const Node& node, Denial reason);

/// A socket behind a gate that counts what gets in.
class Door {
 public:
  explicit Door(std::optional<NodeKeys> keys, Log log);
  ~Door();

  DenialCounts denials() const { return gate_.denials(); }

  std::string endpoint;
  std::atomic<int> messages{0};

 private:
  void serve(const std::stop_token& stop);

  ZmqContext context_;
  Gate gate_;
  std::optional<ZmqSocket> router_;
  std::jthread thread_;
};

/// A DEALER that queues messages whether it is let in or not.
class Knocker {
 public:
  Knocker(const std::string& endpoint, const std::optional<LinkKeys>& keys,
          const std::string& routing_id = {});
  void send(Message message);
  bool receives(std::chrono::milliseconds patience);

 private:
  ZmqContext context_;
  ZmqSocket socket_;
};

/// A plain TCP connection, for what no ZeroMQ client would send.
class RawSocket {
 public:
  explicit RawSocket(const std::string& endpoint);
  ~RawSocket();
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  bool connected() const { return connected_; }
  void send(const Bytes& bytes) const;
  /// Reads until more than `count` bytes have come.
  void await_more_than(std::size_t count) const;
  bool ended_by_peer(std::chrono::milliseconds patience) const;

 private:
  int fd_;
  bool connected_ = false;
};

/// ZMTP's greeting of a client with this mechanism.
Bytes greeting(const std::string& mechanism);

/// A frame of ZMTP: 0x04 a command, 0x01 a part of a message, 0x00 its last part.
Bytes zmtp_frame(std::uint8_t flags, const Bytes& body);

/// Adds a property of a peer to ZMTP's READY.
void add_property(Bytes& command, const std::string& name, const std::string& value);

/// CURVE's HELLO with this short-term key and a box of noise.
Bytes curve_hello(const Bytes& key);

}  // namespace offramp::test
