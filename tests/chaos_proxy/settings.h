// What the proxy does to the bytes that pass, and the lines that change it.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <string>

namespace offramp::chaos {

/// Of bytes: up is from clients to the server, down the way back.
enum class Direction : std::size_t { kUp, kDown };
inline constexpr std::size_t kDirections = 2;

struct Settings {
  std::chrono::microseconds delay{0};   ///< each byte arrives so much later,
  std::chrono::microseconds jitter{0};  ///< and up to this later still; never out of order
  double rate = 0.0;                    ///< bytes a second, of all connections together; 0: any
  double corrupt = 0.0;                 ///< probability of a byte to be changed
  bool hold = false;                    ///< nothing is read: senders are held up, nothing is lost
  bool blackhole = false;               ///< all is read and thrown away

  friend bool operator==(const Settings&, const Settings&) = default;
};

/// To be done once.
enum class Action {
  kNone,
  kHeal,     ///< settings back to none; connections with a hole in their bytes are reset
  kClose,    ///< ends all connections in order (FIN)
  kReset,    ///< ends all connections at once (RST)
  kAbandon,  ///< ends the server's side of all connections, and leaves the clients alone: half open
  kStatistics,
  kQuit,
};

struct Command {
  Action action = Action::kNone;
  std::string error;  ///< "wanted ..., found ..." when the line is no command; empty otherwise
};

/// Reads one line and applies it to `settings`[direction]:
///
///     line      = change [ "up" / "down" / "both" ]      ; both unless it says so
///               / "heal" / "close" / "reset" / "abandon" / "statistics" / "quit"
///     change    = "delay" MS [ JITTER_MS ] / "rate" BYTES_PER_SECOND / "corrupt" PROBABILITY
///               / "hold" ON / "blackhole" ON              ; ON = "on" / "off"
///
/// A wrong line changes nothing.
Command apply(const std::string& line, std::array<Settings, kDirections>& settings);

}  // namespace offramp::chaos
