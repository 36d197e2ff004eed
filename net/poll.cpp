#include "net/poll.h"

#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "engine/error.h"

namespace offramp {

void wait_readable(const std::vector<Waitable>& items, Clock::time_point until) {
  std::vector<zmq_pollitem_t> polled;
  polled.reserve(items.size());
  for (const Waitable& item : items)
    polled.push_back({.socket = item.socket, .fd = item.fd, .events = ZMQ_POLLIN, .revents = 0});
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
  const auto milliseconds = std::clamp<long>(left.count(), 0, 60000);
  // Whatever it returns, the loop looks at everything: a signal is not an error here.
  zmq_poll(polled.data(), static_cast<int>(polled.size()), milliseconds);
}

EventFd::EventFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0)
    throw Error(ErrorKind::kSystem,
                std::string("eventfd: wanted a descriptor, found: ") + std::strerror(errno));
}

EventFd::~EventFd() { close(fd_); }

void EventFd::signal() const noexcept {
  const int saved = errno;
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the loop is awake anyway.
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
  errno = saved;
}

bool EventFd::clear() const noexcept {
  std::uint64_t count = 0;
  return read(fd_, &count, sizeof count) == sizeof count;
}

}  // namespace offramp
