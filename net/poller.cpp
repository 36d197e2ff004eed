#include "net/poller.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "engine/error.h"
#include "net/socket.h"

namespace offramp {
namespace {

constexpr std::size_t kTimer = std::numeric_limits<std::size_t>::max();
constexpr int kAtOnce = 256;  // what is ready beyond these is told next time

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorKind::kSystem,
              std::string(what) + ": wanted a descriptor, found: " + std::strerror(errno));
}

int descriptor_of(const Waitable& item) {
  if (item.socket == nullptr) return item.fd;
  int fd = -1;
  std::size_t size = sizeof fd;
  if (zmq_getsockopt(item.socket, ZMQ_FD, &fd, &size) != 0) throw_zmq_error("ZeroMQ descriptor");
  return fd;
}

// libstdc++'s steady_clock is CLOCK_MONOTONIC.
itimerspec at(Clock::time_point until) {
  const auto since = until.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  itimerspec time{};
  time.it_value.tv_sec = seconds.count();
  time.it_value.tv_nsec = std::chrono::nanoseconds(since - seconds).count();
  return time;
}

}  // namespace

Poller::Descriptor::~Descriptor() {
  if (number >= 0) close(number);
}

Poller::Poller()
    : epoll_{epoll_create1(EPOLL_CLOEXEC)},
      timer_{timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)} {
  if (epoll_.number < 0) fail("epoll");
  if (timer_.number < 0) fail("timer");
  watch(timer_.number, kTimer);
}

void Poller::watch(int fd, std::size_t key) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = key;
  if (epoll_ctl(epoll_.number, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll");
}

void Poller::add(std::size_t key, const std::vector<Waitable>& items) {
  for (const Waitable& item : items) watch(descriptor_of(item), key);
}

void Poller::wait(Clock::time_point until, std::vector<std::size_t>& ready) {
  ready.clear();
  const bool waits = until > Clock::now();
  if (waits) {
    const itimerspec time = at(until);
    timerfd_settime(timer_.number, TFD_TIMER_ABSTIME, &time, nullptr);
  }
  std::array<epoll_event, kAtOnce> events;
  // Whatever it returns, the caller looks at the time: a signal is not an error here.
  const int count = epoll_wait(epoll_.number, events.data(), kAtOnce, waits ? -1 : 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = events[static_cast<std::size_t>(i)].data.u64;
    if (key != kTimer) ready.push_back(key);
  }
}

}  // namespace offramp
