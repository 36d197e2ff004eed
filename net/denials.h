// Who was not let in: why, how often, and what the log is told of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "net/log.h"
#include "net/poll.h"

namespace offramp {

enum class Denial : std::uint8_t {
  kNoKeys,      ///< a peer that does not speak CURVE
  kServerKey,   ///< a peer that has another public key for this node
  kUnknownKey,  ///< a key that is not on the list
  kRole,        ///< a key whose role has no business here
  kHandshake,   ///< a handshake that broke off, or never was one
  kWithdrawn,   ///< a message of a key that has been taken off the list
  kRoutingId,   ///< a message of a peer that chose its own routing id
  kUnfinished,  ///< a message that went on and on
};
inline constexpr std::size_t kDenialCount = static_cast<std::size_t>(Denial::kUnfinished) + 1;
using DenialCounts = std::array<std::uint64_t, kDenialCount>;  ///< by Denial

const char* denial_name(Denial reason);  ///< "no keys", "unknown key", ...

/// Tells of each reason as a Throttle lets it.
class DenialLog {
 public:
  explicit DenialLog(Log log) : log_(std::move(log)) {}

  /// `line` is what to tell of this one.
  void note(Denial reason, const std::string& line, Clock::time_point now);

 private:
  Log log_;
  std::array<Throttle, kDenialCount> throttles_{};
};

}  // namespace offramp
