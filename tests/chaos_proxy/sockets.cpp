#include "tests/chaos_proxy/sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace offramp::chaos {
namespace {

// Large ones would keep bytes for seconds that the proxy is to delay or to lose itself.
constexpr int kBufferBytes = 64 << 10;
constexpr int kBacklog = 4096;

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

/// None with `why` when there is no such address.
Addresses resolve(const std::string& address, int flags, const char** why = nullptr) {
  check_address(address);
  const std::size_t colon = address.rfind(':');
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.substr(0, colon).c_str(), address.substr(colon + 1).c_str(),
                                &hints, &found);
  if (error != 0 && why != nullptr) *why = gai_strerror(error);
  return {error == 0 ? found : nullptr, [](addrinfo* list) {
            if (list != nullptr) freeaddrinfo(list);
          }};
}

void set(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof value);
}

Descriptor stream_socket(const addrinfo& address) {
  Descriptor made(socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  set(made.number(), SOL_SOCKET, SO_RCVBUF, kBufferBytes);
  set(made.number(), SOL_SOCKET, SO_SNDBUF, kBufferBytes);
  set(made.number(), IPPROTO_TCP, TCP_NODELAY, 1);
  return made;
}

}  // namespace

void Descriptor::close() {
  if (open()) ::close(std::exchange(number_, -1));
}

void Descriptor::reset() {
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  if (open()) setsockopt(number_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close();
}

Descriptor listen_on(const std::string& address) {
  const char* why = nullptr;
  const Addresses found = resolve(address, AI_PASSIVE, &why);
  if (!found) throw std::runtime_error(address + ": wanted an address, found: " + why);
  Descriptor listener = stream_socket(*found);
  set(listener.number(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (!listener.open() || bind(listener.number(), found->ai_addr, found->ai_addrlen) != 0 ||
      listen(listener.number(), kBacklog) != 0)
    throw std::runtime_error(address + ": wanted to listen there, found: " + std::strerror(errno));
  return listener;
}

std::string bound_address(const Descriptor& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (getsockname(socket.number(), generic, &size) != 0 ||
      getnameinfo(generic, size, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    throw std::runtime_error("wanted the bound address, found none");
  return std::string(host.data()) + ":" + port.data();
}

Descriptor accept_from(const Descriptor& listener) {
  Descriptor client(accept4(listener.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (client.open()) set(client.number(), IPPROTO_TCP, TCP_NODELAY, 1);
  return client;
}

void check_address(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size())
    throw std::runtime_error("wanted HOST:PORT, found '" + address + "'");
}

Descriptor connect_to(const std::string& address) {
  const Addresses found = resolve(address, 0);
  if (!found) return Descriptor();
  Descriptor made = stream_socket(*found);
  if (connect(made.number(), found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS)
    made.close();
  return made;
}

bool connected(const Descriptor& socket) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

}  // namespace offramp::chaos
