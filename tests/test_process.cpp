#include "tests/test_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <utility>

namespace offramp::testing {
namespace {

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("wanted a pipe, found none");
    read = ends[0];
    write = ends[1];
  }
};

void close_end(int& descriptor) {
  if (descriptor >= 0) close(std::exchange(descriptor, -1));
}

/// Appends what has come; closes the descriptor at its end.
void drain(int& descriptor, std::string& text) {
  std::array<char, 65536> block;
  const ssize_t got = read(descriptor, block.data(), block.size());
  if (got > 0) text.append(block.data(), static_cast<std::size_t>(got));
  if (got <= 0) close_end(descriptor);
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!added.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : added)
    variables.push_back(std::string(name).append("=").append(value));
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

Process::Process(std::vector<std::string> arguments, std::map<std::string, std::string> environment,
                 std::optional<std::string> input) {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe in, out, err;
  std::vector<std::string> variables = merged_environment(environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write, STDERR_FILENO);
  const int error = posix_spawn(&id_, arguments.front().c_str(), &actions, nullptr,
                                pointers(arguments).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  close(in.read);
  close(out.write);
  close(err.write);
  in_ = in.write;
  out_ = out.read;
  err_ = err.read;
  if (error != 0) throw std::runtime_error("could not start " + arguments.front());
  if (!input) return;
  // Inputs of tests fit into a pipe's buffer.
  static_cast<void>(!write(in_, input->data(), input->size()));
  close_end(in_);
}

Process::~Process() {
  if (id_ > 0) {
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
  }
  for (int* end : {&in_, &out_, &err_}) close_end(*end);
}

void Process::signal(int number) const { kill(id_, number); }

void Process::close_stdout() { close_end(out_); }

bool Process::pump(std::chrono::steady_clock::time_point until) {
  std::array<pollfd, 2> items{{{out_, POLLIN, 0}, {err_, POLLIN, 0}}};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      until - std::chrono::steady_clock::now());
  if ((out_ < 0 && err_ < 0) || left.count() <= 0) return false;
  if (poll(items.data(), items.size(), static_cast<int>(left.count())) <= 0) return false;
  if (items[0].revents != 0) drain(out_, result_.out);
  if (items[1].revents != 0) drain(err_, result_.err);
  return true;
}

bool Process::wait_for(const std::string& text, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  const auto missing = [&](const std::string& heard) {
    return heard.find(text) == std::string::npos;
  };
  while (missing(result_.out) && missing(result_.err)) {
    if (!pump(until)) return false;
  }
  return true;
}

Finished Process::finish(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (pump(until)) {
  }
  int status = 0;
  while (waitpid(id_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= until) {
      result_.timed_out = true;
      kill(id_, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  id_ = -1;
  result_.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result_;
}

void settle() {
  constexpr auto kSlice = std::chrono::milliseconds(50);
  for (int slice = 0; slice < 20; ++slice) {
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(kSlice);
    if (std::clock() - before < CLOCKS_PER_SEC / 500) return;
  }
}

}  // namespace offramp::testing
