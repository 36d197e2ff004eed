// The door of a node: who may connect, and whose messages are taken.
//
// With keys, CURVE encrypts every connection; ZeroMQ asks this object about each client's key
// (RFC 27, ZAP), and whoever is not on the list gets no message in. Without keys everybody may.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/allow_list.h"
#include "net/denials.h"
#include "net/intake.h"
#include "net/log.h"
#include "net/monitor.h"
#include "net/socket.h"

namespace offramp {

struct NodeKeys {
  KeyPair own;
  AllowList allowed;
};

/// Owned by one thread at a time, except where it says otherwise.
class Gate {
 public:
  /// Throws Error{kSystem} when there are keys and this libzmq has no CURVE.
  Gate(Tier tier, std::optional<NodeKeys> keys, Log log);

  bool has_keys() const { return own_.has_value(); }

  /// Answers ZeroMQ's questions from now on; before `context` has any other socket.
  void open(const ZmqContext& context);
  /// Locks and watches the socket that is going to listen. It is closed after this is. A peer may
  /// send `most_bytes` before they are a message; see Intake.
  void guard(const ZmqContext& context, ZmqSocket& listener, std::uint64_t most_bytes);
  void close();

  /// Decides on those who knock, takes note of those who failed, and ends connections that fill
  /// the memory.
  void serve(Clock::time_point now);
  /// When to do so though nobody knocks.
  Clock::time_point due() const;
  void waitables(std::vector<Waitable>& out) const;

  /// A message has come over the connection with this descriptor.
  void delivered(int fd) {
    if (intake_) intake_->delivered(fd);
  }

  /// Whether a message may come in or go out, over a connection whose key has this text; none
  /// without keys. `routing_id` is the ROUTER's.
  bool admits(const std::string& key_text, const std::string& routing_id, Clock::time_point now);
  /// The first half of it: a key that was taken off the list gets nothing any more.
  bool allows(const std::string& key_text) const;

  /// Replaces the list, for open connections too. From any thread.
  void allow(AllowList allowed);
  DenialCounts denials() const;  ///< from any thread

 private:
  bool answer_one(Clock::time_point now);
  bool decide(const std::vector<Bytes>& question, std::string& user, Clock::time_point now);
  void take_note(HandshakeFailure failure, Clock::time_point now);
  void refuse(Denial reason, const std::string& line, Clock::time_point now);
  std::optional<AllowList::Entry> entry_of(const std::string& key_text) const;

  Tier tier_;
  std::optional<KeyPair> own_;
  DenialLog log_;
  std::optional<ZmqSocket> zap_;
  std::optional<SocketMonitor> monitor_;
  std::optional<Intake> intake_;

  mutable std::mutex mutex_;  ///< guards what follows
  AllowList allowed_;
  DenialCounts denials_{};
};

}  // namespace offramp
