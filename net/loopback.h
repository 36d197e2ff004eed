// A link inside one process: the twin of ZeroMQ over TCP. Messages go across as structs; everything
// else of the request path is the same.
#pragma once

#include <memory>
#include <string>

#include "net/channel.h"

namespace offramp {

/// The cable. Outlives the node and the channel that are plugged into it; one of each at a time.
class Loopback {
 public:
  Loopback();
  ~Loopback();
  Loopback(const Loopback&) = delete;
  Loopback& operator=(const Loopback&) = delete;

  /// The client's end.
  std::unique_ptr<Channel> connect(const LinkIdentity& identity);

  // The node's end.
  void attach();                   ///< a node is there
  void detach();                   ///< it has gone; what was away is lost
  bool receive(Message& message);  ///< false when nothing has come
  void send(Message message);
  int readable_fd() const;  ///< readable when receive() may have something

 private:
  friend class LoopbackChannel;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp
