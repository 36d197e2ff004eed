// How net/ talks to people: through a callback, for libraries never print.
#pragma once

#include <functional>
#include <string>

namespace offramp {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Called with one line without a newline, from any thread of the node, one call at a time.
/// May be empty.
using Log = std::function<void(LogLevel, const std::string&)>;

}  // namespace offramp
