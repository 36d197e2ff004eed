// Where the nodes of the next tier are, and what a link to one is made of. The tier itself is
// net/upstream.h.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "net/channel.h"
#include "net/resolver.h"

namespace offramp {

/// A link to `address`, one of those that `endpoint` stands for. Throws Error.
using Dial = std::function<std::unique_ptr<Channel>(const std::string& endpoint,
                                                    const std::string& address)>;

/// None at all: there is no next tier.
struct NextNodes {
  NextNodes() = default;
  /// One node, whose link was made elsewhere; null: none. Implicit, as one link is a tier of one
  /// node; the constraint leaves copies and moves alone.
  template <std::convertible_to<std::unique_ptr<Channel>> Link>
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload)
  NextNodes(Link&& link) {
    if (std::unique_ptr<Channel> channel = std::forward<Link>(link))
      links.push_back(std::move(channel));
  }

  bool empty() const { return links.empty() && endpoints.empty(); }

  std::vector<std::unique_ptr<Channel>> links{};  ///< these for good
  /// And a link to each address of these. Names are looked up every `look_up_again`; sooner, and
  /// every second, while none of a name's nodes is up.
  std::vector<std::string> endpoints{};
  Dial dial{};  ///< not empty when there are endpoints
  Resolve resolve = resolve_addresses;
  std::chrono::milliseconds look_up_again{30000};
  std::uint64_t seed = random_session();  ///< of the choice among nodes, and of jitter
};

}  // namespace offramp
