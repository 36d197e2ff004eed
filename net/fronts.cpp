#include "net/fronts.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "engine/error.h"

namespace offramp {
namespace {

// Messages thrown away at once, before the loop gets to do something else: they may be large.
constexpr int kMostRefused = 64;

/// Why the socket file `path` is not free; none where nobody listens there any more.
std::optional<std::string> holder_of(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path) return {};  // no socket has such a path
  address.sun_family = AF_UNIX;
  path.copy(static_cast<char*>(address.sun_path), path.size());
  const int caller = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (caller < 0)
    throw Error(ErrorKind::kSystem, path + ": wanted a socket, found: " + std::strerror(errno));
  const int answer =
      connect(caller, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
  ::close(caller);
  if (answer == ECONNREFUSED || answer == ENOENT) return {};
  if (answer == 0 || answer == EAGAIN) return "somebody who listens there";
  return std::string("a socket that may be in use: ") + std::strerror(answer);
}

/// ZeroMQ removes what is at the path, whatever it is. What a node left behind that was killed may
/// go, a file or the socket of one that runs may not.
void require_free_path(const std::string& endpoint) {
  const std::string path = endpoint.substr(endpoint.find("://") + 3);
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) return;  // bind says so, if that is wrong
  const std::optional<std::string> why =
      S_ISSOCK(found.st_mode) ? holder_of(path) : "a file that is no socket";
  if (why)
    throw Error(ErrorKind::kUnavailable,
                endpoint + ": wanted an address to listen on, found: " + *why);
}

void bind(ZmqSocket& socket, const std::string& endpoint) {
  if (is_ipc(endpoint)) require_free_path(endpoint);
  if (zmq_bind(socket.get(), endpoint.c_str()) == 0) return;
  const int error = zmq_errno();
  const std::string why = zmq_strerror(error);
  switch (error) {
    case EADDRINUSE:
    case EADDRNOTAVAIL:
    case EACCES:
    case ENODEV:
      throw Error(ErrorKind::kUnavailable,
                  endpoint + ": wanted an address to listen on, found: " + why);
    case EMFILE:
    case ENOMEM:
      throw Error(ErrorKind::kSystem, endpoint + ": wanted a socket, found: " + why);
    default:
      throw Error(ErrorKind::kUsage, endpoint + ": wanted an endpoint to listen on, found: " + why);
  }
}

std::string bound_endpoint(ZmqSocket& socket) {
  std::array<char, 1024> text{};
  std::size_t size = text.size();
  if (zmq_getsockopt(socket.get(), ZMQ_LAST_ENDPOINT, text.data(), &size) != 0)
    throw_zmq_error("bound endpoint");
  std::string endpoint = text.data();
  // An IPv4 address on an IPv6 socket comes back as "tcp://[::ffff:127.0.0.1]:7001".
  const std::string mapped = "tcp://[::ffff:";
  if (endpoint.starts_with(mapped)) {
    endpoint = "tcp://" + endpoint.substr(mapped.size());
    endpoint.erase(endpoint.find(']'), 1);
  }
  return endpoint;
}

}  // namespace

Fronts::Fronts(const std::string& endpoint, std::vector<Loopback*> cables,
               const DecodeLimits& limits, int window, Gate& gate)
    : gate_(gate), cables_(std::move(cables)), limits_(limits) {
  try {
    if (!endpoint.empty()) listen(endpoint, window);
  } catch (...) {
    // The context waits for its sockets, and those of the gate outlive this.
    gate_.close();
    throw;
  }
  for (Loopback* cable : cables_) cable->attach();
}

void Fronts::listen(const std::string& endpoint, int window) {
  require_endpoint(endpoint, true);
  if (!gate_.has_keys() && !is_local(endpoint))
    throw Error(ErrorKind::kUsage,
                endpoint + ": wanted keys, or an address of loopback to listen on, found neither");
  context_.emplace();
  gate_.open(*context_);
  router_.emplace(*context_, ZMQ_ROUTER);
  gate_.guard(*context_, *router_, most_waiting_bytes(limits_.max_payload_bytes, window));
  set_link_options(*router_, limits_.max_payload_bytes, window);
  router_->set(ZMQ_LINGER, 500);
  router_->set(ZMQ_ROUTER_MANDATORY, 1);
  router_->set(ZMQ_ROUTER_HANDOVER, 0);
  router_->set(ZMQ_BACKLOG, 1024);
  bind(*router_, endpoint);
  endpoint_ = bound_endpoint(*router_);
}

void Fronts::close() {
  for (Loopback* cable : cables_) cable->detach();
  cables_.clear();
  gate_.close();
  router_.reset();
  context_.reset();
}

void Fronts::waitables(std::vector<Waitable>& out) const {
  if (router_) out.push_back({.socket = router_->get()});
  gate_.waitables(out);
  for (const Loopback* cable : cables_) out.push_back({.fd = cable->readable_fd()});
}

std::optional<Fronts::Received> Fronts::receive_from_router(Clock::time_point now) {
  std::string key;
  // Without keys ZeroMQ's User-Id is what the peer says of itself.
  std::string* const wanted_key = gate_.has_keys() ? &key : nullptr;
  for (int i = 0; i < kMostRefused && router_->receive(parts_, wanted_key); ++i) {
    gate_.delivered(parts_.source());
    const auto id = parts_[0];
    Peer peer{.cable = -1, .routing_id = {id.begin(), id.end()}, .key = key};
    const bool struck_out = !strikes_.none() && strikes_.out(connection_of(peer), now);
    if (!gate_.admits(peer.key, peer.routing_id, now) || struck_out) {
      if (Clock::now() - now > kTurn) return {};
      continue;
    }
    if (parts_.count() != 3) return Received{std::move(peer), Malformed::kFrameCount};
    return Received{std::move(peer), decode(parts_[1], parts_[2], limits_)};
  }
  return {};
}

std::optional<Fronts::Received> Fronts::receive(Clock::time_point now) {
  if (router_)
    if (std::optional<Received> received = receive_from_router(now)) return received;
  for (std::size_t i = 0; i < cables_.size(); ++i) {
    Message message;
    if (cables_[i]->receive(message))
      return Received{Peer{.cable = static_cast<int>(i), .routing_id = {}}, std::move(message)};
  }
  return {};
}

bool Fronts::send(const Peer& peer, Message message) {
  if (peer.cable >= 0) {
    cables_[static_cast<std::size_t>(peer.cable)]->send(std::move(message));
    return true;
  }
  if (!gate_.allows(peer.key)) return false;
  const Frames frames = encode(std::move(message));
  const std::span<const std::uint8_t> address(
      reinterpret_cast<const std::uint8_t*>(peer.routing_id.data()), peer.routing_id.size());
  return router_->send({address, frames.header, frames.payload});
}

}  // namespace offramp
