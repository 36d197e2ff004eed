// A copy of this program as a child, for the demo.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace offramp::cli {

/// Dies with the program: by the destructor, or by the kernel when there is no time for that.
class ChildProcess {
 public:
  /// Starts this program with `arguments`; stdout goes to stderr. Throws Error{kSystem}.
  explicit ChildProcess(std::vector<std::string> arguments);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Exit code, or 128 + signal; none while it runs.
  std::optional<int> ended();

  /// Asks for a clean end with SIGTERM.
  void terminate();
  /// Waits for it, and kills it after `patience`. Returns its code as ended() does.
  int wait(std::chrono::milliseconds patience);

 private:
  pid_t id_ = -1;
  std::optional<int> code_;
};

}  // namespace offramp::cli
