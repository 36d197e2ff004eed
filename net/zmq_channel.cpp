#include "net/zmq_channel.h"

#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "engine/error.h"
#include "net/socket.h"
#include "net/tensor_codec.h"

namespace offramp {
namespace {

constexpr int kMonitored = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_CLOSED | ZMQ_EVENT_CONNECT_RETRIED |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
constexpr const char* kMonitorEndpoint = "inproc://monitor";

// A DEALER and the monitor that tells of its connections.
class Connection {
 public:
  Connection(const std::string& endpoint, std::size_t max_frame_bytes, int window)
      : dealer_(context_, ZMQ_DEALER), monitor_(context_, ZMQ_PAIR) {
    set_link_options(dealer_, max_frame_bytes, window);
    dealer_.set(ZMQ_LINGER, 0);
    dealer_.set(ZMQ_IMMEDIATE, 1);
    dealer_.set(ZMQ_RECONNECT_IVL, 100);
    dealer_.set(ZMQ_RECONNECT_IVL_MAX, 5000);
    dealer_.set(ZMQ_CONNECT_TIMEOUT, 2000);
    monitor_.set(ZMQ_LINGER, 0);
    if (zmq_socket_monitor(dealer_.get(), kMonitorEndpoint, kMonitored) != 0 ||
        zmq_connect(monitor_.get(), kMonitorEndpoint) != 0)
      throw_zmq_error(endpoint + ": socket monitor");
    if (zmq_connect(dealer_.get(), endpoint.c_str()) != 0) {
      const bool unusable = zmq_errno() != EMFILE && zmq_errno() != ENOMEM;
      throw Error(unusable ? ErrorKind::kUsage : ErrorKind::kSystem,
                  endpoint + ": wanted an endpoint to connect to: " + zmq_strerror(zmq_errno()));
    }
  }

  // Drops the connection, if any, and connects anew. What was not sent yet is forgotten.
  void reconnect(const std::string& endpoint) {
    zmq_disconnect(dealer_.get(), endpoint.c_str());
    zmq_connect(dealer_.get(), endpoint.c_str());
  }

  ZmqSocket& dealer() { return dealer_; }
  void waitables(std::vector<Waitable>& out) const {
    out.push_back({.socket = dealer_.get()});
    out.push_back({.socket = monitor_.get()});
  }

  // The events that have come, oldest first.
  std::vector<int> monitor_events() {
    std::vector<int> events;
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (monitor_.receive(parts, 2, count)) {
      if (parts[0].size() < 2) continue;
      // In the machine's byte order, for it never leaves the machine.
      std::uint16_t event = 0;
      std::copy_n(parts[0].begin(), sizeof event, reinterpret_cast<std::uint8_t*>(&event));
      events.push_back(event);
    }
    return events;
  }

 private:
  ZmqContext context_;
  ZmqSocket dealer_, monitor_;
};

class ZmqChannel final : public Channel {
 public:
  ZmqChannel(const std::string& endpoint, const LinkIdentity& identity,
             const ZmqChannelOptions& options)
      : endpoint_(endpoint),
        limits_{
            .max_payload_bytes = 0, .max_classes = identity.classes, .max_exits = identity.exits},
        connection_(endpoint, kFixedHeaderBytes + 4 * identity.classes, options.window),
        session_(endpoint, identity, options.times,
                 [this](Message message) { return send(std::move(message)); }) {}

  ~ZmqChannel() override { send(Bye{}); }

  bool submit(Handoff handoff, std::uint32_t& sent_bytes) override {
    if (session_.state() != LinkState::kUp || !send(std::move(handoff), &sent_bytes)) return false;
    session_.submitted();
    return true;
  }

  void service(Clock::time_point now, std::vector<LinkEvent>& events) override {
    // What was received before a connection broke is delivered before its end is told.
    const std::vector<int> changes = connection_.monitor_events();
    read_messages(now, events);
    for (const int change : changes) {
      if (change == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        session_.connected(now);
      } else if (change == ZMQ_EVENT_DISCONNECTED) {
        session_.disconnected("connection lost", events);
      } else {
        session_.disconnected("cannot connect", events);
      }
    }
    if (!session_.tick(now)) {
      session_.disconnected("no sign of life", events);
      connection_.reconnect(endpoint_);
    }
  }

  void waitables(std::vector<Waitable>& out) const override { connection_.waitables(out); }

  Clock::time_point due() const override { return session_.due(); }
  LinkState state() const override { return session_.state(); }
  int window() const override { return session_.window(); }
  std::chrono::microseconds round_trip() const override { return session_.round_trip(); }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  bool send(Message message, std::uint32_t* sent_bytes = nullptr) {
    const Frames frames = encode(std::move(message));
    if (!connection_.dealer().send({frames.header, frames.payload})) return false;
    if (sent_bytes != nullptr)
      *sent_bytes = static_cast<std::uint32_t>(frames.header.size() + frames.payload.size());
    return true;
  }

  void read_messages(Clock::time_point now, std::vector<LinkEvent>& events) {
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (connection_.dealer().receive(parts, 2, count)) {
      if (count != 2) continue;
      auto decoded = decode(parts[0], parts[1], limits_);
      if (auto* message = std::get_if<Message>(&decoded))
        session_.received(std::move(*message), now, events);
      else if (std::get<Malformed>(decoded) == Malformed::kVersion)
        session_.received_other_version(parts[0][kMajorOffset], events);
    }
  }

  std::string endpoint_;
  DecodeLimits limits_;
  Connection connection_;
  LinkSession session_;
};

}  // namespace

std::unique_ptr<Channel> connect_zmq(const std::string& endpoint, const LinkIdentity& identity,
                                     const ZmqChannelOptions& options) {
  require_endpoint(endpoint, false);
  return std::make_unique<ZmqChannel>(endpoint, identity, options);
}

}  // namespace offramp
