// RAII for what the nodes hold of ZeroMQ, and the options that all links have in common.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace offramp {

/// Throws Error{kSystem}: `what` and ZeroMQ's words for the current errno.
[[noreturn]] void throw_zmq_error(const std::string& what);

/// Terminating waits for the sockets' LINGER and no longer.
class ZmqContext {
 public:
  ZmqContext();
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  void* get() const { return context_; }

 private:
  void* context_;
};

using Bytes = std::vector<std::uint8_t>;

/// The parts of a received message, up to three; they lie where ZeroMQ has put them.
class Parts {
 public:
  static constexpr std::size_t kMost = 3;

  Parts();
  ~Parts();
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;

  std::size_t count() const { return count_; }  ///< further ones, which are gone, included
  /// The descriptor of the connection it came over, which may have been closed since; -1 when that
  /// is not known.
  int source() const { return source_; }
  /// Valid until the next message is received.
  std::span<const std::uint8_t> operator[](std::size_t index) const;

 private:
  friend class ZmqSocket;
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::size_t count_ = 0;
  int source_ = -1;
};

class ZmqSocket {
 public:
  /// `type` is ZMQ_ROUTER and the like.
  ZmqSocket(const ZmqContext& context, int type);
  ~ZmqSocket();
  ZmqSocket(const ZmqSocket&) = delete;
  ZmqSocket& operator=(const ZmqSocket&) = delete;

  void set(int option, int value);
  void set(int option, std::int64_t value);
  void set(int option, std::span<const std::uint8_t> value);
  void* get() const { return socket_; }

  /// One message of several parts; false when none is there. Parts beyond `max_parts` are counted
  /// and thrown away. `user_id`, unless null, gets what the gate has called the sender. Never
  /// blocks.
  bool receive(std::vector<Bytes>& parts, std::size_t max_parts, std::size_t& part_count,
               std::string* user_id = nullptr);

  /// The same, without a copy of the parts.
  bool receive(Parts& parts, std::string* user_id = nullptr);

  /// All parts or none; false with errno set. Never blocks.
  bool send(std::initializer_list<std::span<const std::uint8_t>> parts);

 private:
  void* socket_;
};

/// Throws Error{kUsage} unless `endpoint` is tcp://HOST:PORT or ipc://PATH. ZeroMQ itself takes
/// port 99999 and uses another. `*` as port is for listening only.
void require_endpoint(const std::string& endpoint, bool listen);

/// True for an endpoint that has no need of keys: only files' permissions lead to it.
bool is_ipc(const std::string& endpoint);
/// True when only processes of this machine can reach it: ipc, and numeric loopback addresses.
bool is_local(const std::string& endpoint);

/// Options common to both sides of a TCP link; before bind or connect.
/// `max_frame_bytes` is the largest frame that is taken, `window` sizes the queues.
void set_link_options(ZmqSocket& socket, std::size_t max_frame_bytes, int window);

/// What can have come over a connection with these options and wait to be received, when each of
/// its messages is a header and one frame.
std::uint64_t most_waiting_bytes(std::size_t max_frame_bytes, int window);

}  // namespace offramp
