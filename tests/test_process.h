// Other programs in tests: started, watched with a time limit, never left behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace offramp::testing {

struct Finished {
  int code = -1;  ///< exit code, or 128 + signal
  bool timed_out = false;
  std::string out, err;
};

/// A program that runs beside the test. SIGKILL at the end of the scope.
class Process {
 public:
  /// `arguments` begin with the program. `environment` is added to the test's own. Without `input`
  /// its stdin stays open and silent.
  explicit Process(std::vector<std::string> arguments,
                   std::map<std::string, std::string> environment = {},
                   std::optional<std::string> input = std::string());
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t id() const { return id_; }
  void signal(int number) const;
  /// Closes our end of its stdout, as `head` does.
  void close_stdout();
  /// Reads until stdout or stderr holds `text`; false when it ends or `patience` is over before.
  bool wait_for(const std::string& text, std::chrono::milliseconds patience);
  /// Reads to the end. Kills it after `patience`.
  Finished finish(std::chrono::milliseconds patience = std::chrono::seconds(60));

 private:
  /// False once both pipes have been closed, or at `until`.
  bool pump(std::chrono::steady_clock::time_point until);

  pid_t id_ = -1;
  int in_ = -1, out_ = -1, err_ = -1;
  Finished result_;
};

/// Waits until all threads of this process sleep, a second at most: OpenBLAS's spin for a tenth of
/// one after they have started.
void settle();

}  // namespace offramp::testing
