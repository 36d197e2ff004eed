#include "tests/test_keys.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace offramp::test {

NodeKeys Keyring::edge_keys(Role role) const {
  NodeKeys keys{.own = edge, .allowed = {}};
  keys.allowed.add(device.own, {.role = role, .name = "camera"});
  return keys;
}

ZmqChannelOptions with_keys(LinkKeys keys) {
  ZmqChannelOptions options;
  options.keys.emplace(std::move(keys));
  return options;
}

Log Ear::log() {
  return [this](LogLevel, const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
  };
}

std::size_t Ear::count(const std::string& text) const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(std::ranges::count_if(
      lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; }));
}

std::string Ear::all() const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const std::string& line : lines_) text += line + "\n";
  return text;
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace offramp::test
