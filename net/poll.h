// Waiting for sockets, descriptors and other threads at once: what every loop in net/ sleeps on.
#pragma once

#include <chrono>
#include <vector>

namespace offramp {

using Clock = std::chrono::steady_clock;

/// What a loop waits for until it is readable: a ZeroMQ socket or, when that is null, a file
/// descriptor.
struct Waitable {
  void* socket = nullptr;
  int fd = -1;
};

/// Waits until one of `items` is readable or `until` has come, a minute at most.
void wait_readable(const std::vector<Waitable>& items, Clock::time_point until);

/// Wakes a loop from another thread or a signal handler.
class EventFd {
 public:
  EventFd();  ///< throws Error{kSystem}
  ~EventFd();
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;
  void signal() const noexcept;  ///< async-signal-safe
  bool clear() const noexcept;   ///< true when it had been signalled
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace offramp
