#include "tests/test_strangers.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "net/poll.h"
#include "tests/test_nodes.h"

namespace offramp::test {

using std::chrono::milliseconds;

NodeOptions locked(NodeKeys keys, const std::string& listen) {
  NodeOptions options = whole_edge(listen);
  options.keys.emplace(std::move(keys));
  return options;
}

std::uint64_t denied(const DenialCounts& counts, Denial reason) {
  return counts[static_cast<std::size_t>(reason)];
}

std::uint64_t denied(const Node& node, Denial reason) {
  return denied(node.counters().denied, reason);
}

Door::Door(std::optional<NodeKeys> keys, Log log)
    : gate_(Tier::kEdge, std::move(keys), std::move(log)) {
  gate_.open(context_);
  router_.emplace(context_, ZMQ_ROUTER);
  set_link_options(*router_, 1 << 20, 64);
  router_->set(ZMQ_LINGER, 0);
  gate_.guard(context_, *router_, most_waiting_bytes(1 << 20, 64));
  endpoint = bound(*router_);
  thread_ = beside([this](const std::stop_token& stop) { serve(stop); });
}

Door::~Door() {
  thread_.request_stop();
  thread_.join();
  gate_.close();
}

void Door::serve(const std::stop_token& stop) {
  std::vector<Bytes> parts;
  std::size_t count = 0;
  while (!stop.stop_requested()) {
    std::vector<Waitable> items{{.socket = router_->get()}};
    gate_.waitables(items);
    wait_readable(items, Clock::now() + milliseconds(5));
    gate_.serve(Clock::now());
    while (router_->receive(parts, 3, count)) ++messages;
  }
}

Knocker::Knocker(const std::string& endpoint, const std::optional<LinkKeys>& keys,
                 const std::string& routing_id)
    : socket_(context_, ZMQ_DEALER) {
  socket_.set(ZMQ_LINGER, 0);
  if (keys) {
    socket_.set(ZMQ_CURVE_SERVERKEY, keys->server.bytes());
    socket_.set(ZMQ_CURVE_PUBLICKEY, keys->own.own.bytes());
    socket_.set(ZMQ_CURVE_SECRETKEY, keys->own.secret.bytes());
  }
  if (!routing_id.empty())
    REQUIRE(zmq_setsockopt(socket_.get(), ZMQ_ROUTING_ID, routing_id.data(), routing_id.size()) ==
            0);
  REQUIRE(zmq_connect(socket_.get(), endpoint.c_str()) == 0);
}

void Knocker::send(Message message) {
  const Frames frames = encode(std::move(message));
  socket_.send({frames.header, frames.payload});
}

bool Knocker::receives(milliseconds patience) {
  std::vector<Bytes> parts;
  std::size_t count = 0;
  return eventually([&] { return socket_.receive(parts, 2, count); }, patience);
}

RawSocket::RawSocket(const std::string& endpoint) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connected_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

RawSocket::~RawSocket() { close(fd_); }

void RawSocket::send(const Bytes& bytes) const {
  static_cast<void>(!::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL));
}

void RawSocket::await_more_than(std::size_t count) const {
  char block[256];
  for (std::size_t sum = 0; sum <= count;) {
    const ssize_t got = recv(fd_, block, sizeof block, 0);
    REQUIRE(got > 0);
    sum += static_cast<std::size_t>(got);
  }
}

bool RawSocket::ended_by_peer(milliseconds patience) const {
  const timeval limit{.tv_sec = patience.count() / 1000, .tv_usec = 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  char block[256];
  ssize_t got = 1;
  while (got > 0) got = recv(fd_, block, sizeof block, 0);
  return got == 0 || errno == ECONNRESET;
}

Bytes greeting(const std::string& mechanism) {
  Bytes bytes(64, 0);
  bytes[0] = 0xff;
  bytes[9] = 0x7f;
  bytes[10] = 3;
  std::ranges::copy(mechanism, bytes.begin() + 12);
  return bytes;
}

Bytes zmtp_frame(std::uint8_t flags, const Bytes& body) {
  REQUIRE(body.size() < 256);
  Bytes bytes(2 + body.size());
  bytes[0] = flags;
  bytes[1] = static_cast<std::uint8_t>(body.size());
  std::ranges::copy(body, bytes.begin() + 2);
  return bytes;
}

void add_property(Bytes& command, const std::string& name, const std::string& value) {
  command.push_back(static_cast<std::uint8_t>(name.size()));
  command.insert(command.end(), name.begin(), name.end());
  command.insert(command.end(), {0, 0, 0, static_cast<std::uint8_t>(value.size())});
  command.insert(command.end(), value.begin(), value.end());
}

Bytes curve_hello(const Bytes& key) {
  const Bytes begin = {0x04, 200, 5, 'H', 'E', 'L', 'L', 'O', 1, 0};
  Bytes bytes(202, 0xa5);
  std::ranges::copy(begin, bytes.begin());
  std::fill_n(bytes.begin() + 10, 72, std::uint8_t{0});
  std::ranges::copy(key, bytes.begin() + 82);
  return bytes;
}

}  // namespace offramp::test
