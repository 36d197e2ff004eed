#include "tests/test_keys.h"

#include <utility>

namespace offramp::test {

NodeKeys Keyring::edge_keys(Role role) const {
  NodeKeys keys{.own = edge, .allowed = {}};
  keys.allowed.add(device.own, {.role = role, .name = "camera"});
  return keys;
}

ZmqChannelOptions with_keys(LinkKeys keys) {
  ZmqChannelOptions options;
  options.keys.emplace(std::move(keys));
  return options;
}

}  // namespace offramp::test
