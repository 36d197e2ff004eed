#include "net/zmq_channel.h"

#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "engine/error.h"
#include "net/monitor.h"

namespace offramp {
namespace {

using std::chrono::milliseconds;

constexpr int kMonitored = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                           ZMQ_EVENT_CLOSED | ZMQ_EVENT_CONNECT_RETRIED;
// Between a refusal and the next attempt.
constexpr milliseconds kFirstRetry{200};
constexpr milliseconds kLongestRetry{5000};
// Between attempts to connect; ZeroMQ adds up to kFirstReconnect at random. The last two together
// bound how long after its return a node is found (net/WIRE.md).
constexpr milliseconds kFirstReconnect{100};
constexpr milliseconds kLongestReconnect{500};
constexpr milliseconds kConnectTimeout{1000};
constexpr milliseconds kHandshake{1500};

// A DEALER and the monitor that tells of its connections.
class Connection {
 public:
  Connection(const std::string& endpoint, std::size_t max_frame_bytes,
             const ZmqChannelOptions& options)
      : context_(options.context ? options.context : std::make_shared<ZmqContext>()),
        dealer_(*context_, ZMQ_DEALER),
        monitor_(*context_, dealer_, kMonitored | handshake_failure_events()) {
    set_link_options(dealer_, max_frame_bytes, options.window);
    if (options.keys && !is_ipc(endpoint)) {
      require_curve();
      dealer_.set(ZMQ_CURVE_SERVERKEY, options.keys->server.bytes());
      dealer_.set(ZMQ_CURVE_PUBLICKEY, options.keys->own.own.bytes());
      dealer_.set(ZMQ_CURVE_SECRETKEY, options.keys->own.secret.bytes());
    }
    dealer_.set(ZMQ_LINGER, 0);
    dealer_.set(ZMQ_IMMEDIATE, 1);
    dealer_.set(ZMQ_RECONNECT_IVL, static_cast<int>(kFirstReconnect.count()));
    dealer_.set(ZMQ_RECONNECT_IVL_MAX, static_cast<int>(kLongestReconnect.count()));
    dealer_.set(ZMQ_CONNECT_TIMEOUT, static_cast<int>(kConnectTimeout.count()));
    dealer_.set(ZMQ_HANDSHAKE_IVL, static_cast<int>(kHandshake.count()));
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
    out.push_back(monitor_.waitable());
  }

  // The events that have come, oldest first.
  std::vector<SocketMonitor::Event> monitor_events() {
    std::vector<SocketMonitor::Event> events;
    while (const auto event = monitor_.next()) events.push_back(*event);
    return events;
  }

 private:
  std::shared_ptr<ZmqContext> context_;
  ZmqSocket dealer_;
  SocketMonitor monitor_;
};

// What a person is to look at.
std::string barred_because(HandshakeFailure failure, const std::optional<LinkKeys>& keys) {
  switch (failure) {
    case HandshakeFailure::kDenied:
      return keys ? "wanted to be let in, found that its allow-list does not have our key " +
                        fingerprint(keys->own.own.text()) + "..., or not for this tier"
                  : "wanted to be let in, found that it refuses";
    case HandshakeFailure::kMechanism:
    case HandshakeFailure::kServerKey:
    case HandshakeFailure::kBroken:
      // ZeroMQ's server hangs up, often before this side can see why.
      return keys ? "wanted a node with the key " + fingerprint(keys->server.text()) +
                        "..., found one that ends the handshake, as with another key or none"
                  : "wanted a node without keys, found one that ends the handshake, as with keys";
    case HandshakeFailure::kProtocol:
      return "wanted a node, found something that does not speak ZeroMQ";
  }
  return "";
}

class ZmqChannel final : public Channel {
 public:
  ZmqChannel(const std::string& endpoint, const LinkIdentity& identity,
             const ZmqChannelOptions& options)
      : endpoint_(endpoint),
        limits_{
            .max_payload_bytes = 0, .max_classes = identity.classes, .max_exits = identity.exits},
        keys_(is_ipc(endpoint) ? std::nullopt : options.keys),
        connection_(endpoint, kFixedHeaderBytes + 4 * identity.classes, options),
        session_(endpoint, identity, options.times,
                 [this](Message message) { return send(std::move(message)); }) {}

  ~ZmqChannel() override { send(Bye{}); }

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    if (session_.state() != LinkState::kUp) return false;
    const Bytes header = encode_header(handoff);
    const Bytes& payload = handoff.tensor.payload;
    if (!connection_.dealer().send({header, payload})) return false;
    sent_bytes = static_cast<std::uint32_t>(header.size() + payload.size());
    session_.submitted(handoff.request);
    return true;
  }

  void cancel(const RequestId& request) override { session_.cancel(request); }

  void service(Clock::time_point now, std::vector<LinkEvent>& events) override {
    // What was received before a connection broke is delivered before its end is told.
    const std::vector<SocketMonitor::Event> changes = connection_.monitor_events();
    read_messages(now, events);
    for (const SocketMonitor::Event& change : changes) {
      if (change.type == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        session_.connected(now);
        told_barred_.clear();
        broken_ = 0;
        retry_ = kFirstRetry;
      } else if (change.type == ZMQ_EVENT_DISCONNECTED) {
        session_.disconnected("connection lost", false, events);
      } else {
        session_.disconnected("cannot connect", false, events);
        if (const auto failure = handshake_failure(change)) barred(*failure, now, events);
      }
    }
    if (now >= retry_at_) {
      retry_at_ = Clock::time_point::max();
      connection_.reconnect(endpoint_);
    }
    if (!session_.tick(now)) {
      session_.disconnected("no sign of life", true, events);
      connection_.reconnect(endpoint_);
    }
  }

  void waitables(std::vector<Waitable>& out) const override { connection_.waitables(out); }

  Clock::time_point due() const override { return std::min(session_.due(), retry_at_); }
  LinkState state() const override { return session_.state(); }
  int window() const override { return session_.window(); }
  bool takes_pictures() const override { return session_.takes_pictures(); }
  LinkLoad load() const override { return session_.load(); }
  std::chrono::microseconds round_trip() const override { return session_.round_trip(); }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  void barred(HandshakeFailure failure, Clock::time_point now, std::vector<LinkEvent>& events) {
    // After any other failure ZeroMQ connects again by itself.
    if (failure != HandshakeFailure::kBroken) {
      retry_at_ = now + retry_;
      retry_ = std::min(2 * retry_, kLongestRetry);
    }
    // One alone may be a node that was just stopped.
    if (failure == HandshakeFailure::kBroken && ++broken_ < 2) return;
    std::string why = endpoint_ + ": " + barred_because(failure, keys_);
    if (!told_barred_.insert(why).second) return;
    events.push_back(LinkBarred{std::move(why)});
  }

  bool send(Message message) {
    const Frames frames = encode(std::move(message));
    return connection_.dealer().send({frames.header, frames.payload});
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
  std::optional<LinkKeys> keys_;
  Connection connection_;
  LinkSession session_;
  std::set<std::string> told_barred_;  ///< since the link was up
  int broken_ = 0;                     ///< handshakes since then
  milliseconds retry_ = kFirstRetry;
  Clock::time_point retry_at_ = Clock::time_point::max();
};

}  // namespace

std::unique_ptr<Channel> connect_zmq(const std::string& endpoint, const LinkIdentity& identity,
                                     const ZmqChannelOptions& options) {
  require_endpoint(endpoint, false);
  return std::make_unique<ZmqChannel>(endpoint, identity, options);
}

NextNodes zmq_nodes(const std::vector<ZmqEndpoint>& endpoints, const LinkIdentity& identity,
                    ZmqChannelOptions options) {
  if (!options.context) options.context = std::make_shared<ZmqContext>();
  NextNodes nodes;
  std::map<std::string, std::optional<LinkKeys>> keys;
  for (const ZmqEndpoint& each : endpoints) {
    require_endpoint(each.endpoint, false);
    if (keys.try_emplace(each.endpoint, each.keys).second) nodes.endpoints.push_back(each.endpoint);
  }
  nodes.dial = [identity, options, keys = std::move(keys)](const std::string& endpoint,
                                                           const std::string& address) {
    ZmqChannelOptions link = options;
    link.keys = keys.at(endpoint);
    return connect_zmq(address, identity, link);
  };
  return nodes;
}

}  // namespace offramp
