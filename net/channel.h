// The client side of a link to the next tier. Asynchronous: many requests are away at once, answers
// come in any order. Not thread-safe: one thread owns a channel at a time.
//
// Inheritance because two real links stand behind it: ZeroMQ (net/zmq_channel.h) and in-process
// (net/loopback.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "net/message.h"
#include "net/poll.h"

namespace offramp {

/// What a channel presents itself with, and expects of the other side.
struct LinkIdentity {
  WireModelId model{};
  std::uint8_t cut = 0;     ///< the stage the next tier is to start with
  Shape shape;              ///< of one sample at that cut
  std::size_t classes = 0;  ///< bounds a Verdict's label and probabilities
  int exits = 0;            ///< bounds a Verdict's exit
};

enum class LinkState {
  kConnecting,  ///< no WELCOME so far
  kUp,
  kDraining,    ///< the next tier is leaving; it still answers what it has
  kDown,        ///< was up, or was tried in vain; reconnects by itself
  kMismatched,  ///< the next tier runs another model or protocol version; tried again on
                ///< reconnection
};

struct LinkUp {
  Welcome welcome;
};
/// All requests that are away are lost: no Verdict and no Fault will come for them.
struct LinkDown {
  std::string why;
  bool silent = false;  ///< the connection stands, and the node does not answer
};
/// The next tier has refused to talk: a mistake in the configuration.
struct LinkRefused {
  Fault fault;
  std::string why;  ///< one line naming the endpoint and both sides
};

/// The handshake failed: keys, or their absence, do not fit. Tried again, for lists of keys change;
/// each reason is told once until the link is up.
struct LinkBarred {
  std::string why;  ///< one line naming the endpoint
};

/// What a node's last PONG has said of it.
struct LinkLoad {
  Clock::time_point at{};                ///< when it came; none has while this is 0
  std::uint32_t queue_depth = 0;         ///< requests that waited for a worker
  std::chrono::microseconds service{0};  ///< median that a worker takes; 0: it does not say
  int workers = 0;                       ///< 0: it does not say
};

using LinkEvent = std::variant<Verdict, Fault, LinkUp, LinkDown, LinkRefused, LinkBarred>;

class Channel {
 public:
  virtual ~Channel() = default;

  /// Sends, and never blocks. False, with nothing sent, unless the link is up and has room. Each
  /// request that was sent leads to exactly one Verdict or Fault with its id, or to a LinkDown. On
  /// success `sent_bytes` holds the size of both frames.
  virtual bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) = 0;

  /// Nobody waits for this answer any more: says so to a node that understands it. An answer may
  /// come none the less.
  virtual void cancel(const RequestId& request) = 0;

  /// Reads what has come, pings, reconnects; appends to `events`. Never blocks.
  virtual void service(Clock::time_point now, std::vector<LinkEvent>& events) = 0;

  /// Appends what to wait on; service() is due when one of them is readable, and at due().
  virtual void waitables(std::vector<Waitable>& out) const = 0;
  virtual Clock::time_point due() const = 0;

  virtual LinkState state() const = 0;
  /// Requests that may be away at once, as the next tier has said last; 0 before its WELCOME.
  virtual int window() const = 0;
  virtual LinkLoad load() const = 0;
  /// Whether cut 0 may be sent as well, as DType::kPixels; false before its WELCOME.
  virtual bool takes_pictures() const = 0;
  /// Smoothed time there and back without the work in between; 0 when not yet measured.
  virtual std::chrono::microseconds round_trip() const = 0;
  /// For messages: "tcp://10.0.0.2:7001".
  virtual const std::string& endpoint() const = 0;
};

}  // namespace offramp
