// Keys for tests of nodes: one pair for each part, and ears for what a node logs about them.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "net/gate.h"
#include "net/log.h"
#include "net/zmq_channel.h"

namespace offramp::test {

/// Drawn anew for each test.
struct Keyring {
  KeyPair edge = make_key_pair(), device = make_key_pair(), stranger = make_key_pair();

  /// What locks the edge: the device may connect, in `role`.
  NodeKeys edge_keys(Role role = Role::kDevice) const;
  /// What opens it.
  LinkKeys device_keys() const { return {.own = device, .server = edge.own}; }
};

ZmqChannelOptions with_keys(LinkKeys keys);

/// Lines of a log, from any thread.
class Ear {
 public:
  Log log();
  bool heard(const std::string& text) const { return count(text) > 0; }
  std::size_t count(const std::string& text) const;  ///< lines that hold it
  std::string all() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

/// True once `condition` holds, false when `patience` is over.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds patience = std::chrono::seconds(20));

}  // namespace offramp::test
