// Waiting for very many sockets at once: its cost grows with those that have something to say, not
// with all there are. wait_readable() (net/poll.h) is for a few.
#pragma once

#include <cstddef>
#include <vector>

#include "net/poll.h"

namespace offramp {

/// A ZeroMQ socket is only sure to be noticed when, after each use of it, sending too, its owner
/// reads it until it is empty before the next wait().
class Poller {
 public:
  Poller();  ///< throws Error{kSystem}

  /// Watches `items`, which live as long as this does, and calls them `key`. Throws Error{kSystem}.
  void add(std::size_t key, const std::vector<Waitable>& items);

  /// Waits until something is readable or `until` has come, to the microsecond, and replaces
  /// `ready` with the keys of what is; one may come twice.
  void wait(Clock::time_point until, std::vector<std::size_t>& ready);

 private:
  struct Descriptor {
    explicit Descriptor(int fd) : number(fd) {}
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number;
  };

  void watch(int fd, std::size_t key);

  Descriptor epoll_, timer_;
};

}  // namespace offramp
