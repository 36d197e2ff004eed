// What Ctrl-C and SIGTERM do.
#pragma once

#include <chrono>

namespace offramp::cli {

/// From now on SIGINT ends the program with 130 at once, and a write to a closed pipe is an error
/// instead of a death.
void install_signal_handlers();

/// Thrown by StopFlag::check(); the program then ends with 128 + signal.
struct Interrupted {
  int signal = 0;
};

/// From now on SIGHUP does not end the program; StopFlag::wait() tells of it, also where the flag
/// was made later.
void hold_hangup();

/// While it lives, SIGINT and SIGTERM only leave a mark, for work that must be wound up. A second
/// SIGINT ends the program all the same. One at a time.
class StopFlag {
 public:
  enum class Woken { kStop, kHangup };

  StopFlag();  ///< throws Error{kSystem}
  ~StopFlag();
  StopFlag(const StopFlag&) = delete;
  StopFlag& operator=(const StopFlag&) = delete;

  /// The signal that arrived; 0 when none has.
  int signal() const;
  /// Throws Interrupted when one has.
  void check() const;
  /// Blocks until one has arrived, or a SIGHUP that is held. Several of those may be told as one.
  Woken wait() const;
  /// Blocks until one has arrived, for this long at most; true when one has.
  bool wait_for(std::chrono::milliseconds patience) const;

 private:
  int event_;
};

}  // namespace offramp::cli
