// What Ctrl-C and SIGTERM do.
#pragma once

namespace offramp::cli {

/// From now on SIGINT ends the program with 130 at once, and a write to a closed pipe is an error
/// instead of a death.
void install_signal_handlers();

/// Thrown by StopFlag::check(); the program then ends with 128 + signal.
struct Interrupted {
  int signal = 0;
};

/// While it lives, SIGINT and SIGTERM only leave a mark, for work that must be wound up. A second
/// SIGINT ends the program all the same. One at a time.
class StopFlag {
 public:
  /// What SIGHUP does: it ends the program, or wait() tells of it.
  enum class Hangup { kEnds, kTold };
  enum class Woken { kStop, kHangup };

  /// Throws Error{kSystem}.
  explicit StopFlag(Hangup hangup = Hangup::kEnds);
  ~StopFlag();
  StopFlag(const StopFlag&) = delete;
  StopFlag& operator=(const StopFlag&) = delete;

  /// The signal that arrived; 0 when none has.
  int signal() const;
  /// Throws Interrupted when one has.
  void check() const;
  /// Blocks until one has arrived, or SIGHUP. Several of those may be told as one.
  Woken wait() const;

 private:
  int event_;
  Hangup hangup_;
};

}  // namespace offramp::cli
