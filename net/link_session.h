// What the client side of a link says and remembers, whatever carries it: HELLO and WELCOME, pings,
// draining. ZeroMQ and loopback channels differ only in how bytes and connections come and go.
#pragma once

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "net/channel.h"

namespace offramp {

struct LinkTimes {
  std::chrono::milliseconds ping_active{500};  ///< between pings while there is work
  std::chrono::milliseconds ping_idle{15000};
  /// After a request, though it may have been answered: what was measured is to stay fresh while
  /// there is work.
  std::chrono::milliseconds still_active{5000};
  /// Pings or HELLOs after which the link is dead; of pings maybe more, see patience().
  int unanswered = 3;
};

class LinkSession {
 public:
  /// `send` never blocks; false when the message could not be taken.
  LinkSession(std::string endpoint, const LinkIdentity& identity, const LinkTimes& times,
              std::function<bool(Message)> send);

  void connected(Clock::time_point now);
  /// `silent`: the peer does not answer, though the connection stands.
  void disconnected(const std::string& why, bool silent, std::vector<LinkEvent>& events);
  void received(Message message, Clock::time_point now, std::vector<LinkEvent>& events);
  /// The peer spoke another major version of the protocol.
  void received_other_version(int major, std::vector<LinkEvent>& events);
  void submitted(const RequestId& request) {
    away_.insert(request);
    last_submit_ = Clock::now();
    due_ = std::min(due_, ping_sent_ + times_.ping_active);
  }
  /// Nobody waits for it any more; a peer that knows CANCEL is told.
  void cancel(const RequestId& request);

  /// Sends what is due. False when the peer has been silent for too long: the carrier is then to
  /// drop the connection, call disconnected() and connect again.
  [[nodiscard]] bool tick(Clock::time_point now);
  Clock::time_point due() const { return due_; }

  LinkState state() const { return state_; }
  int window() const { return window_; }
  bool takes_pictures() const { return pictures_; }
  LinkLoad load() const { return load_; }
  std::chrono::microseconds round_trip() const { return round_trip_; }
  const std::string& endpoint() const { return endpoint_; }

 private:
  void receive(const Welcome& welcome, Clock::time_point now, std::vector<LinkEvent>& events);
  void receive(Fault fault, Clock::time_point now, std::vector<LinkEvent>& events);
  void receive(const Pong& pong, Clock::time_point now);
  void refuse(Fault fault, std::string why, std::vector<LinkEvent>& events);
  void leave_when_done(Clock::time_point now);
  bool greeting() const { return connected_ && state_ == LinkState::kConnecting; }
  /// Pings that may be without an answer, which comes from the node's workers between two batches:
  /// who computes for long is as silent as who is stuck. Twice as many as times_ says until it is
  /// known how long a batch takes, then as many more as fit into that; and twice as many again for
  /// each of silences_.
  int patience() const;
  /// Shorter while answers are missing.
  Clock::duration ping_interval(Clock::time_point now) const {
    const bool active = !away_.empty() || now - last_submit_ < times_.still_active;
    return active ? times_.ping_active : times_.ping_idle;
  }

  std::string endpoint_;
  LinkIdentity identity_;
  LinkTimes times_;
  std::function<bool(Message)> send_;
  std::uint64_t session_;
  LinkState state_ = LinkState::kConnecting;
  bool connected_ = false;
  bool announced_ = false;  ///< a LinkUp went out, and no LinkDown since
  bool left_ = false;       ///< said BYE; the peer is to close the connection
  int window_ = 0;
  int unanswered_ = 0;
  int silences_ = 0;  ///< links in a row that ended in silence before they had a PONG
  std::chrono::microseconds pace_{0};  ///< what a batch takes there; 0 before the first answer
  std::uint64_t ping_sequence_ = 0;
  Clock::time_point ping_sent_{};
  std::set<RequestId> away_;  ///< requests of this connection without an answer
  Clock::time_point last_submit_{};
  std::uint8_t minor_ = 0;  ///< of the peer's version
  bool pictures_ = false;
  LinkLoad load_;
  Clock::time_point due_ = Clock::time_point::max();
  std::chrono::microseconds round_trip_{0};
};

}  // namespace offramp
