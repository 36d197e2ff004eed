// How net/ talks to people: through a callback, for libraries never print.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "net/poll.h"

namespace offramp {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Called with one line without a newline, from any thread of the node, one call at a time.
/// May be empty.
using Log = std::function<void(LogLevel, const std::string&)>;

/// For lines that strangers cause: of those of one kind the first five are told, then one every ten
/// seconds, with how many were left out before it.
class Throttle {
 public:
  /// What to tell of this one, if anything.
  std::optional<std::string> pass(const std::string& line, Clock::time_point now);

 private:
  double told_ = 0;  ///< lines of late, of which one is forgotten every ten seconds
  Clock::time_point last_{};
  std::uint64_t untold_ = 0;
};

}  // namespace offramp
