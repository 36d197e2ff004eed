#include "net/intake.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>

namespace offramp {
namespace {

// In this time a peer sends some tens of megabytes through CURVE. To look more often costs an idle
// node more than what it has to do besides.
constexpr std::chrono::milliseconds kInterval{50};
// A look at one takes a microsecond: all of them, a hundredth of a core at most.
constexpr std::chrono::microseconds kIntervalEach{100};

template <typename T>
std::optional<T> option_of(int fd, int level, int name, std::size_t least = sizeof(T)) {
  T value{};
  socklen_t size = sizeof value;
  if (getsockopt(fd, level, name, &value, &size) != 0 || size < least) return {};
  return value;
}

std::optional<std::uint64_t> received_bytes(int fd) {
  constexpr std::size_t kNeeded =
      offsetof(tcp_info, tcpi_bytes_received) + sizeof(tcp_info::tcpi_bytes_received);
  const auto info = option_of<tcp_info>(fd, IPPROTO_TCP, TCP_INFO, kNeeded);
  if (!info) return {};
  return info->tcpi_bytes_received;
}

}  // namespace

void Intake::opened(int fd) { connections_[fd] = {}; }

void Intake::delivered(int fd) {
  if (const auto found = connections_.find(fd); found != connections_.end())
    found->second.delivered = true;
}

int Intake::review(Clock::time_point now) {
  if (connections_.empty() || now < next_review_) return 0;
  next_review_ =
      now + std::max<Clock::duration>(kInterval, std::ssize(connections_) * kIntervalEach);
  int ended = 0;
  for (auto each = connections_.begin(); each != connections_.end();) {
    if (!too_much(each->first, each->second)) {
      ++each;
      continue;
    }
    // ZeroMQ sees the end of the connection and lets go of what it had kept.
    shutdown(each->first, SHUT_RDWR);
    each = connections_.erase(each);
    ++ended;
  }
  return ended;
}

bool Intake::too_much(int fd, Connection& connection) const {
  const auto cookie = option_of<std::uint64_t>(fd, SOL_SOCKET, SO_COOKIE);
  const std::optional<std::uint64_t> bytes = received_bytes(fd);
  // A path's socket, or one that is gone, of which closed() is about to tell.
  if (!cookie || !bytes) return false;
  if (connection.delivered)
    connection = {.cookie = *cookie, .bytes = *bytes, .delivered = false};
  else if (connection.cookie != *cookie)
    connection = {.cookie = *cookie, .bytes = 0, .delivered = false};
  return *bytes - connection.bytes > most_bytes_;
}

}  // namespace offramp
