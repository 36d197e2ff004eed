#include "net/socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "engine/error.h"
#include "net/message.h"

namespace offramp {
namespace {

constexpr int kKernelBuffer = 256 * 1024;
constexpr std::size_t kFrameSlack = 1024;

int queued_messages(int window) { return 2 * window; }

// A received part; closed whatever happens.
class Part {
 public:
  Part() { zmq_msg_init(&message_); }
  ~Part() { zmq_msg_close(&message_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  zmq_msg_t* get() { return &message_; }
  std::span<const std::uint8_t> span() {
    return {static_cast<const std::uint8_t*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }
  const char* user_id() {
    const char* found = zmq_msg_gets(&message_, "User-Id");
    return found == nullptr ? "" : found;
  }
  int source() { return zmq_msg_get(&message_, ZMQ_SRCFD); }

 private:
  zmq_msg_t message_;
};

// A ROUTER counts its routing ids up from what rand() says first, and ZeroMQ does not seed that:
// every node would begin with the same one.
void* new_context() {
  static std::once_flag seeded;
  std::call_once(seeded, [] { std::srand(static_cast<unsigned>(random_session())); });
  return zmq_ctx_new();
}

}  // namespace

void throw_zmq_error(const std::string& what) {
  throw Error(ErrorKind::kSystem, what + ": " + zmq_strerror(zmq_errno()));
}

ZmqContext::ZmqContext() : context_(new_context()) {
  if (context_ == nullptr) throw_zmq_error("ZeroMQ context");
  zmq_ctx_set(context_, ZMQ_BLOCKY, 0);
}

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

ZmqSocket::ZmqSocket(const ZmqContext& context, int type)
    : socket_(zmq_socket(context.get(), type)) {
  if (socket_ == nullptr) throw_zmq_error("ZeroMQ socket");
}

ZmqSocket::~ZmqSocket() { zmq_close(socket_); }

void ZmqSocket::set(int option, int value) {
  if (zmq_setsockopt(socket_, option, &value, sizeof value) != 0)
    throw_zmq_error("ZeroMQ socket option " + std::to_string(option));
}

void ZmqSocket::set(int option, std::int64_t value) {
  if (zmq_setsockopt(socket_, option, &value, sizeof value) != 0)
    throw_zmq_error("ZeroMQ socket option " + std::to_string(option));
}

void ZmqSocket::set(int option, std::span<const std::uint8_t> value) {
  if (zmq_setsockopt(socket_, option, value.data(), value.size()) != 0)
    throw_zmq_error("ZeroMQ socket option " + std::to_string(option));
}

bool ZmqSocket::receive(std::vector<Bytes>& parts, std::size_t max_parts, std::size_t& part_count,
                        std::string* user_id) {
  parts.clear();
  if (user_id != nullptr) user_id->clear();
  part_count = 0;
  while (true) {
    Part part;
    if (zmq_msg_recv(part.get(), socket_, ZMQ_DONTWAIT) < 0) return false;
    ++part_count;
    if (parts.size() < max_parts) parts.emplace_back(part.span().begin(), part.span().end());
    if (user_id != nullptr && user_id->empty()) *user_id = part.user_id();
    if (zmq_msg_more(part.get()) == 0) return true;
  }
}

struct Parts::Impl {
  std::array<Part, kMost> parts;
};

Parts::Parts() : impl_(std::make_unique<Impl>()) {}

Parts::~Parts() = default;

std::span<const std::uint8_t> Parts::operator[](std::size_t index) const {
  return impl_->parts[index].span();
}

bool ZmqSocket::receive(Parts& parts, std::string* user_id) {
  if (user_id != nullptr) user_id->clear();
  parts.count_ = 0;
  Part surplus;
  while (true) {
    Part& part = parts.count_ < Parts::kMost ? parts.impl_->parts[parts.count_] : surplus;
    if (zmq_msg_recv(part.get(), socket_, ZMQ_DONTWAIT) < 0) return false;
    ++parts.count_;
    if (user_id != nullptr && user_id->empty()) *user_id = part.user_id();
    if (zmq_msg_more(part.get()) != 0) continue;
    parts.source_ = part.source();
    return true;
  }
}

bool ZmqSocket::send(std::initializer_list<std::span<const std::uint8_t>> parts) {
  std::size_t left = parts.size();
  for (const auto part : parts) {
    const int flags = ZMQ_DONTWAIT | (--left > 0 ? ZMQ_SNDMORE : 0);
    if (zmq_send(socket_, part.data(), part.size(), flags) < 0) return false;
  }
  return true;
}

void require_endpoint(const std::string& endpoint, bool listen) {
  const auto colon = endpoint.rfind(':');
  const std::string port = colon == std::string::npos ? "" : endpoint.substr(colon + 1);
  bool good = endpoint.starts_with("ipc://") && endpoint.size() > 6;
  // Longer than "tcp://" before the colon: there is a host.
  if (endpoint.starts_with("tcp://") && colon > 6) {
    const bool digits = !port.empty() && port.size() <= 5 &&
                        port.find_first_not_of("0123456789") == std::string::npos;
    good = digits ? std::stoi(port) >= 1 && std::stoi(port) <= 65535 : listen && port == "*";
  }
  if (!good)
    throw Error(ErrorKind::kUsage,
                "endpoint: wanted tcp://HOST:PORT or ipc://PATH, found \"" + endpoint + "\"");
}

bool is_ipc(const std::string& endpoint) { return endpoint.starts_with("ipc://"); }

bool is_local(const std::string& endpoint) {
  if (is_ipc(endpoint)) return true;
  const std::string scheme = "tcp://";
  if (!endpoint.starts_with(scheme)) return false;
  std::string host = endpoint.substr(scheme.size(), endpoint.rfind(':') - scheme.size());
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  in_addr four{};
  in6_addr six{};
  // ZeroMQ must read the address as this does; a name is nothing to rely on.
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  return inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six) != 0;
}

void set_link_options(ZmqSocket& socket, std::size_t max_frame_bytes, int window) {
  socket.set(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(max_frame_bytes + kFrameSlack));
  socket.set(ZMQ_SNDHWM, queued_messages(window));
  socket.set(ZMQ_RCVHWM, queued_messages(window));
  socket.set(ZMQ_SNDBUF, kKernelBuffer);
  socket.set(ZMQ_RCVBUF, kKernelBuffer);
  socket.set(ZMQ_HANDSHAKE_IVL, 3000);
  socket.set(ZMQ_TCP_MAXRT, 10000);
  socket.set(ZMQ_TCP_KEEPALIVE, 1);
  socket.set(ZMQ_TCP_KEEPALIVE_IDLE, 30);
  socket.set(ZMQ_TCP_KEEPALIVE_INTVL, 5);
  socket.set(ZMQ_TCP_KEEPALIVE_CNT, 3);
  socket.set(ZMQ_IPV6, 1);
}

// Beside the queue: a message that is coming, one that is being received, and the kernel's buffer,
// which is twice what was asked for. The slack covers a header and what CURVE adds.
std::uint64_t most_waiting_bytes(std::size_t max_frame_bytes, int window) {
  return static_cast<std::uint64_t>(queued_messages(window) + 2) *
             (max_frame_bytes + 2 * kFrameSlack) +
         2 * kKernelBuffer;
}

}  // namespace offramp
