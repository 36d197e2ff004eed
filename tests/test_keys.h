// Keys for tests of nodes: one pair for each part.
#pragma once

#include "net/gate.h"
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

}  // namespace offramp::test
