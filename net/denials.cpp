#include "net/denials.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr double kBurst = 5;
constexpr std::chrono::duration<double> kInterval{10};

}  // namespace

const char* denial_name(Denial reason) {
  switch (reason) {
    case Denial::kNoKeys:
      return "no keys";
    case Denial::kServerKey:
      return "wrong server key";
    case Denial::kUnknownKey:
      return "unknown key";
    case Denial::kRole:
      return "wrong role";
    case Denial::kHandshake:
      return "broken handshake";
    case Denial::kWithdrawn:
      return "withdrawn key";
    case Denial::kRoutingId:
      return "own routing id";
    case Denial::kUnfinished:
      return "unfinished message";
  }
  return "?";
}

void DenialLog::note(Denial reason, const std::string& line, Clock::time_point now) {
  if (!log_) return;
  Tally& tally = tallies_[static_cast<std::size_t>(reason)];
  tally.told = std::max(0.0, tally.told - (now - tally.last) / kInterval);
  tally.last = now;
  if (tally.told > kBurst - 1) {
    ++tally.untold;
    return;
  }
  ++tally.told;
  const std::uint64_t untold = std::exchange(tally.untold, 0);
  log_(LogLevel::kWarning,
       line + (untold == 0 ? "" : " (and " + std::to_string(untold) + " more like it)"));
}

}  // namespace offramp
