// Connections that sent what is no message: three times, and they are not heard any more.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "net/poll.h"

namespace offramp {

/// Bounded: of very many connections with strikes, those whose last one is longest ago are
/// forgiven.
class Strikes {
 public:
  /// Notes a strike. True when it was the third one, each within a minute of the one before.
  [[nodiscard]] bool strike(const std::string& connection, Clock::time_point now);

  bool none() const { return records_.empty(); }
  /// True for a minute after the third strike. Then the slate is clean.
  bool out(const std::string& connection, Clock::time_point now) const;

 private:
  struct Record {
    int count = 0;
    Clock::time_point last;
  };
  std::map<std::string, Record> records_;
};

}  // namespace offramp
