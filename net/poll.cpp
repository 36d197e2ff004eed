#include "net/poll.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>

#include "engine/error.h"

namespace offramp {

namespace {

bool has_message(void* socket) {
  int events = 0;
  std::size_t size = sizeof events;
  return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) != 0;
}

pollfd descriptor_of(const Waitable& item) {
  pollfd descriptor{.fd = item.fd, .events = POLLIN, .revents = 0};
  std::size_t size = sizeof descriptor.fd;
  if (item.socket != nullptr) zmq_getsockopt(item.socket, ZMQ_FD, &descriptor.fd, &size);
  return descriptor;
}

timespec duration_until(Clock::time_point until) {
  constexpr std::chrono::nanoseconds kLongest = std::chrono::minutes(1);
  const std::chrono::nanoseconds left =
      std::clamp<std::chrono::nanoseconds>(until - Clock::now(), {}, kLongest);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  return {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
}

}  // namespace

// What zmq_poll() does, with a third of its system calls: it looks at every socket before it waits,
// again after that, and each look is two.
void wait_readable(const std::vector<Waitable>& items, Clock::time_point until) {
  std::vector<pollfd> polled;
  for (const Waitable& item : items) {
    // A socket's descriptor tells of what is new, not of what is left.
    if (item.socket != nullptr && has_message(item.socket)) return;
    polled.push_back(descriptor_of(item));
  }
  while (true) {
    const timespec left = duration_until(until);
    // A signal is not an error here: the loop looks at everything.
    if (ppoll(polled.data(), polled.size(), &left, nullptr) <= 0) return;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (polled[i].revents == 0) continue;
      // ZeroMQ's threads also say things to a socket that are no message.
      if (items[i].socket == nullptr || has_message(items[i].socket)) return;
    }
  }
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
