#include "tools/signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "engine/error.h"
#include "tools/command.h"

namespace offramp::cli {
namespace {

// Signal handlers reach nothing but globals.
std::atomic<int> arrived{0};
std::atomic<bool> hung_up{false};
std::atomic<int> event_to_write{-1};
static_assert(std::atomic<int>::is_always_lock_free);

void end_at_once(int number) {
  // Leaves a half-drawn progress bar on a line of its own.
  if (isatty(STDERR_FILENO) == 1) static_cast<void>(!write(STDERR_FILENO, "\n", 1));
  _exit(kExitSignal + number);
}

void leave_mark(int number) {
  const int error = errno;
  if (number == SIGINT && arrived.load() == SIGINT) end_at_once(number);
  if (number == SIGHUP)
    hung_up.store(true);
  else
    arrived.store(number);
  const std::uint64_t one = 1;
  static_cast<void>(!write(event_to_write.load(), &one, sizeof one));
  errno = error;
}

void handle(int number, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

void install_signal_handlers() {
  handle(SIGPIPE, SIG_IGN);
  handle(SIGINT, end_at_once);
}

void hold_hangup() { handle(SIGHUP, leave_mark); }

StopFlag::StopFlag() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_ < 0) {
    throw Error(ErrorKind::kSystem,
                std::string("eventfd: wanted a descriptor, found: ") + std::strerror(errno));
  }
  arrived.store(0);
  event_to_write.store(event_);
  handle(SIGINT, leave_mark);
  handle(SIGTERM, leave_mark);
}

StopFlag::~StopFlag() {
  handle(SIGINT, end_at_once);
  handle(SIGTERM, SIG_DFL);
  event_to_write.store(-1);
  close(event_);
}

int StopFlag::signal() const { return arrived.load(); }

void StopFlag::check() const {
  if (const int number = signal(); number != 0) throw Interrupted{number};
}

bool StopFlag::wait_for(std::chrono::milliseconds patience) const {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (signal() == 0) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd item{event_, POLLIN, 0};
    poll(&item, 1, static_cast<int>(left.count()));
  }
  return true;
}

StopFlag::Woken StopFlag::wait() const {
  while (signal() == 0) {
    if (hung_up.exchange(false)) return Woken::kHangup;
    pollfd item{event_, POLLIN, 0};
    poll(&item, 1, -1);
    std::uint64_t count = 0;
    static_cast<void>(!read(event_, &count, sizeof count));
  }
  return Woken::kStop;
}

}  // namespace offramp::cli
