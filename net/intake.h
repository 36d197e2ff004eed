// Connections over which much comes in and no message is made of it.
//
// ZeroMQ has a limit for one part of a message and none for their number, and keeps them until the
// last one has come: whoever is let in could fill the memory with one message that never ends. So
// the bytes of each connection are counted, by the kernel, from one whole message to the next.
#pragma once

#include <cstdint>
#include <map>

#include "net/poll.h"

namespace offramp {

/// Owned by one thread at a time. Descriptors are ZeroMQ's, which may close and use them again at
/// any time: nothing here depends on being told in time.
class Intake {
 public:
  /// `most_bytes` are what an honest peer can have sent since its last message that was received:
  /// those that wait in ZeroMQ's queue and the kernel's, and the one that is coming.
  explicit Intake(std::uint64_t most_bytes) : most_bytes_(most_bytes) {}

  void opened(int fd);
  void closed(int fd) { connections_.erase(fd); }
  /// A whole message has come over it.
  void delivered(int fd);

  /// Hangs up on those who sent more than that, and returns how many they were. Looks no more often
  /// than twenty times a second; from 500 connections on, the less often the more there are.
  int review(Clock::time_point now);
  /// When to look again; never, while there is no connection.
  Clock::time_point due() const {
    return connections_.empty() ? Clock::time_point::max() : next_review_;
  }

 private:
  struct Connection {
    std::uint64_t cookie = 0;  ///< the kernel's name of the connection; 0 before the first look
    std::uint64_t bytes = 0;   ///< had been received when a look found a message; 0 before that
    bool delivered = false;    ///< since the last look
  };
  bool too_much(int fd, Connection& connection) const;

  std::uint64_t most_bytes_;
  std::map<int, Connection> connections_;
  Clock::time_point next_review_{};
};

}  // namespace offramp
