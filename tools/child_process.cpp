#include "tools/child_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <thread>

#include "engine/error.h"
#include "tools/options.h"

namespace offramp::cli {
namespace {

constexpr int kCouldNotStart = 127;

/// After fork(): only async-signal-safe calls, and no way back.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment,
                         pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // The parent may have died before the call above.
  if (getppid() != parent) _exit(kCouldNotStart);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  execve(program, arguments, environment);
  _exit(kCouldNotStart);
}

/// Our environment without what sets options of other commands: the arguments say it all.
std::vector<char*> environment_of_child() {
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("OFFRAMP_NODE_") && !text.starts_with("OFFRAMP_CONFIG="))
      variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  return variables;
}

}  // namespace

ChildProcess::ChildProcess(std::vector<std::string> arguments) {
  std::string program = executable_path().string();
  std::vector<char*> pointers{program.data()};
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const std::vector<char*> environment = environment_of_child();
  const pid_t parent = getpid();
  id_ = fork();
  if (id_ == 0) become(program.c_str(), pointers.data(), environment.data(), parent);
  if (id_ < 0) {
    throw Error(ErrorKind::kSystem,
                std::string("fork: wanted a process, found: ") + std::strerror(errno));
  }
}

ChildProcess::~ChildProcess() {
  terminate();
  wait(std::chrono::seconds(2));
}

std::optional<int> ChildProcess::ended() {
  if (code_) return code_;
  int status = 0;
  const pid_t found = waitpid(id_, &status, WNOHANG);
  if (found == id_) {
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  } else if (found < 0 && errno == ECHILD) {
    code_ = 0;  // whoever started us ignores SIGCHLD: the child is gone, and how is not told
  }
  return code_;
}

void ChildProcess::terminate() {
  if (!ended()) kill(id_, SIGTERM);
}

int ChildProcess::wait(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  bool killed = false;
  for (;;) {
    if (const std::optional<int> code = ended()) return *code;
    if (!killed && std::chrono::steady_clock::now() >= until) {
      kill(id_, SIGKILL);
      killed = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace offramp::cli
