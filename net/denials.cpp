#include "net/denials.h"

namespace offramp {

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
  if (const auto told = throttles_[static_cast<std::size_t>(reason)].pass(line, now))
    log_(LogLevel::kWarning, *told);
}

}  // namespace offramp
