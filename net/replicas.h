// All nodes of the next tier: found by name, linked, chosen from.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "net/log.h"
#include "net/next_nodes.h"
#include "net/replica.h"

namespace offramp {

class Replicas {
 public:
  /// Throws what `nodes.dial` does for addresses; names are looked up later.
  Replicas(NextNodes nodes, Log log);

  /// None, and none are to be found.
  bool empty() const { return replicas_.empty() && names_.empty(); }

  /// Finds, drops and services them, and appends what their links have to say.
  using Event = std::pair<Replica*, LinkEvent>;
  void service(Clock::time_point now, std::vector<Event>& events);
  /// Looks the name that led to it up again, soon.
  void lost(const Replica& replica, Clock::time_point now);

  /// Why none could answer within `time`; kNone when one could.
  Reason obstacle(Clock::duration time, Clock::time_point now) const;
  /// One of those that could: of two drawn at random, the one with fewer requests (Mitzenmacher
  /// 2001, the power of two choices), else the faster one. Null when there is none.
  /// With `pictures`, of those that take them.
  Replica* choose(Clock::duration time, Clock::time_point now, const Replica* except,
                  bool pictures = false);

  /// One of those that have room to spare; null when there is none.
  Replica* choose_to_spare(Clock::duration time, Clock::time_point now, bool pictures);

  bool any(LinkState state) const;
  bool all(LinkState state) const;  ///< false when there are none
  bool any_takes_pictures() const;
  bool full(Clock::time_point now) const;
  std::size_t size() const { return replicas_.size(); }
  bool may_grow() const { return !names_.empty(); }

  void waitables(std::vector<Waitable>& out) const;
  Clock::time_point due() const;

  std::string endpoints() const;  ///< as they were given, for messages
  std::vector<LinkStatus> status(Clock::time_point now) const;
  /// Null when it is there no more.
  Replica* find(std::uint64_t id);
  std::mt19937_64& random() { return random_; }

 private:
  struct Name {
    Clock::time_point next_lookup{}, last_lookup{};
    std::vector<std::string> addresses{};  ///< that it led to when it was looked up last, ascending
    std::string problem{};                 ///< of the last lookup, told once
  };

  void add(const std::string& endpoint, const std::string& address);
  void add(const std::string& endpoint, std::unique_ptr<Channel> channel);
  void look_up(Clock::time_point now);
  void take(const Resolver::Answer& answer, Clock::time_point now);
  bool reachable(const Name& name) const;
  /// Whether it is still what was asked for, by address or by a name.
  bool wanted(const Replica& replica) const;
  std::vector<Replica*> candidates(Clock::duration time, Clock::time_point now,
                                   const Replica* except, bool pictures) const;

  Dial dial_;
  std::chrono::milliseconds look_up_again_;
  Log log_;
  std::mt19937_64 random_;
  std::optional<Resolver> resolver_;  ///< when there are names
  std::map<std::string, Name> names_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::uint64_t next_id_ = 1;
};

}  // namespace offramp
