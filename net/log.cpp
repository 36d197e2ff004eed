#include "net/log.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace offramp {
namespace {

constexpr double kBurst = 5;
constexpr std::chrono::duration<double> kInterval{10};

}  // namespace

std::optional<std::string> Throttle::pass(const std::string& line, Clock::time_point now) {
  told_ = std::max(0.0, told_ - (now - last_) / kInterval);
  last_ = now;
  if (told_ > kBurst - 1) {
    ++untold_;
    return {};
  }
  ++told_;
  const std::uint64_t untold = std::exchange(untold_, 0);
  return line + (untold == 0 ? "" : " (and " + std::to_string(untold) + " more like it)");
}

}  // namespace offramp
