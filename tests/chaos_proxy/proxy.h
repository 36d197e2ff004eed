// A TCP proxy that does to connections what networks do: one thread, one loop.
#pragma once

#include <poll.h>

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "tests/chaos_proxy/flow.h"
#include "tests/chaos_proxy/settings.h"
#include "tests/chaos_proxy/sockets.h"

namespace offramp::chaos {

class Proxy {
 public:
  /// Throws std::runtime_error, one line.
  Proxy(const std::string& listen, std::string to, std::uint64_t seed);

  std::string address() const { return bound_address(listener_); }

  /// Changes settings as a line of `control` does; returns what is wrong with it, or nothing.
  std::string set(const std::string& line) { return apply(line, settings_).error; }

  /// Serves until a "quit", or until `control`, from which it reads commands, ends. Each line gets
  /// one back on `replies`: "ok", "error: wanted ..., found ...", or the statistics as JSON.
  void run(int control, int replies);

 private:
  /// A client and its connection to the server.
  struct Link {
    Link(Descriptor accepted, Random& seeds)
        : client(std::move(accepted)), flows{Flow(seeds()), Flow(seeds())} {}

    Descriptor& source(std::size_t direction) { return direction == 0 ? client : server; }
    Descriptor& target(std::size_t direction) { return direction == 0 ? server : client; }

    Descriptor client, server;
    std::array<Flow, kDirections> flows;
    std::array<bool, kDirections> told_end{};  ///< the target knows that no more will come
    std::array<bool, kDirections> broken{};    ///< the source has gone without a word
    bool connecting = true;
    bool abandoned = false;  ///< has no server any more, and the client is not to know
  };
  struct Statistics {
    std::uint64_t accepted = 0, unreachable = 0, corrupted = 0;
    std::array<std::uint64_t, kDirections> bytes{};
  };

  bool passes_nothing(std::size_t direction) const {
    return settings_[direction].hold || settings_[direction].blackhole;
  }
  void watch(std::vector<pollfd>& items, Clock::time_point now, Clock::time_point& until);
  short events_of(Link& link, std::size_t source, Clock::time_point now, Clock::time_point& until);
  void accept_all();
  void serve(Link& link, short client_events, short server_events, Clock::time_point now);
  void read_from(Link& link, std::size_t direction, Clock::time_point now);
  void write_to(Link& link, std::size_t direction, Clock::time_point now);
  bool over(Link& link);
  void end(Link& link, bool reset);
  bool obey(const std::string& line, int replies);
  std::string statistics_json() const;

  Descriptor listener_;
  std::string to_;
  Random seeds_;
  std::array<Settings, kDirections> settings_;
  std::array<Allowance, kDirections> allowances_;
  std::list<Link> links_;
  Statistics statistics_;
};

}  // namespace offramp::chaos
