// The tier after this one, with nodes that are puppets: who gets a request, and who is left alone.
// What becomes of one that has been sent is in upstream_outcome_test.cpp.
#include "net/upstream.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "tests/test_puppets.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("upstream: requests are spread over the nodes, to those with fewer of them") {
  Troupe tier(3);
  for (int i = 0; i < 18; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  for (const Strings& node : tier.nodes) {
    CHECK(node.got.size() >= 5);
    CHECK(node.got.size() <= 7);
  }
  // Of two with as many, the faster one.
  Troupe pair(2);
  for (Strings& node : pair.nodes) node.load = pace(pair.now, 0, milliseconds(20), 1);
  pair.nodes[1].load = pace(pair.now, 0, milliseconds(10), 1);
  REQUIRE(pair.hand_on() == Reason::kNone);
  CHECK(pair.nodes[1].got.size() == 1);
}

TEST_CASE("upstream: of two, the slower one is asked once a second, if that is in time") {
  Troupe pair(2);
  pair.nodes[1].load = pace(pair.now, 0, milliseconds(10), 1);
  // How many of `count` requests the slower one gets.
  const auto asked = [&](milliseconds slow, int count, milliseconds apart) {
    pair.nodes[0].load = pace(pair.now, 0, slow, 1);
    std::size_t got = 0;
    while (--count >= 0) {
      pair.now += apart;
      const std::size_t before = pair.nodes[0].got.size();
      REQUIRE(pair.hand_on(milliseconds(500)) == Reason::kNone);
      const bool first = pair.nodes[0].got.size() > before;
      if (first) ++got;
      pair.nodes[first ? 0 : 1].answer_last();
      pair.service();
    }
    return got;
  };
  const std::size_t in_ten_seconds = asked(milliseconds(200), 200, milliseconds(50));
  CHECK(in_ten_seconds >= 9);
  CHECK(in_ten_seconds <= 11);
  CHECK(asked(milliseconds(2000), 200, milliseconds(50)) == 0);
  // With seconds between requests, they take turns.
  CHECK(asked(milliseconds(200), 10, milliseconds(1500)) == 5);
}

TEST_CASE("upstream: the same seed makes the same choices, another one others") {
  const auto choices = [](std::uint64_t seed) {
    Troupe tier(4, Policy::kBalanced, seed);
    std::string text;
    for (int i = 0; i < 20; ++i) {
      std::vector<std::size_t> before;
      for (const Strings& node : tier.nodes) before.push_back(node.got.size());
      REQUIRE(tier.hand_on() == Reason::kNone);
      for (std::size_t n = 0; n < 4; ++n)
        if (tier.nodes[n].got.size() > before[n]) text += std::to_string(n);
    }
    return text;
  };
  CHECK(choices(5) == choices(5));
  CHECK(choices(5) != choices(6));
}

TEST_CASE("upstream: no node has more than its window, and 0 means nothing now") {
  Troupe tier(2);
  tier.nodes[0].window = 2;
  tier.nodes[1].window = 3;
  for (int i = 0; i < 5; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.nodes[0].got.size() == 2);
  CHECK(tier.upstream.full(tier.now));
  CHECK(tier.hand_on() == Reason::kOverloaded);
  tier.nodes[0].answer_last();
  CHECK(tier.service().size() == 1);
  CHECK_FALSE(tier.upstream.full(tier.now));
  tier.nodes[0].window = 0;
  CHECK(tier.hand_on() == Reason::kOverloaded);
  tier.nodes[0].window = 2;
  CHECK(tier.hand_on() == Reason::kNone);
}

TEST_CASE("upstream: what is not likely to come in time is not sent") {
  Troupe tier(1);
  tier.nodes[0].events.emplace_back(LinkUp{});
  tier.service();
  tier.nodes[0].round_trip = milliseconds(50);
  tier.nodes[0].load = pace(tier.now, 10, milliseconds(100), 2);  // 50 + (10 / 2 + 1) * 100
  CHECK(tier.hand_on(milliseconds(640)) == Reason::kLate);
  CHECK(tier.sent() == 0);
  CHECK(tier.hand_on(milliseconds(660)) == Reason::kNone);
  // One more waits there now.
  CHECK(tier.hand_on(milliseconds(660)) == Reason::kLate);
  // In the meantime the queue there gets shorter.
  tier.now += milliseconds(300);
  CHECK(tier.hand_on(milliseconds(560)) == Reason::kNone);
  CHECK(tier.nodes[0].got.back().budget_us == 510'000);
}

TEST_CASE("upstream: what has no time left is not sent, and not held against an idle node") {
  Troupe tier(1);
  for (int i = 0; i < 10; ++i) {
    tier.now += seconds(6);
    CHECK(tier.hand_on(milliseconds(0)) == Reason::kLate);
    CHECK(tier.hand_on(milliseconds(-5)) == Reason::kLate);
  }
  CHECK(tier.sent() == 0);
  CHECK(tier.upstream.links(tier.now)[0].breaker == BreakerState::kClosed);
  CHECK(tier.hand_on() == Reason::kNone);
}

TEST_CASE("upstream: a node that nothing was sent to for long is tried, whatever it was like") {
  Troupe tier(1);
  tier.nodes[0].greet();
  tier.service();
  tier.nodes[0].load = pace(tier.now, 0, milliseconds(3000), 1);
  CHECK(tier.hand_on() == Reason::kLate);
  tier.now += seconds(6);
  CHECK(tier.hand_on() == Reason::kNone);
  CHECK(tier.hand_on() == Reason::kLate);
}

TEST_CASE("upstream: a node's pace is measured where it says none") {
  Troupe tier(1);
  tier.nodes[0].greet();
  tier.service();
  REQUIRE(tier.hand_on() == Reason::kNone);
  tier.nodes[0].events.emplace_back(
      Verdict{.request = tier.nodes[0].got.back().request,
              .decision = {},
              .hops = {Hop{.queue_us = 300'000, .compute_us = 100'000, .wait_us = 900'000}}});
  REQUIRE(tier.service().size() == 1);
  CHECK(tier.upstream.links(tier.now)[0].service == milliseconds(400));
  CHECK(tier.hand_on(milliseconds(390)) == Reason::kLate);
  CHECK(tier.hand_on(milliseconds(410)) == Reason::kNone);
}

TEST_CASE("upstream: a late request does not make a slow node look faster") {
  Troupe tier(1);
  tier.nodes[0].greet();
  tier.service();
  REQUIRE(tier.hand_on() == Reason::kNone);
  tier.nodes[0].events.emplace_back(
      Verdict{.request = tier.nodes[0].got.back().request,
              .decision = {},
              .hops = {Hop{.queue_us = 0, .compute_us = 400'000, .wait_us = 0}}});
  REQUIRE(tier.service().size() == 1);
  tier.now += seconds(2);
  REQUIRE(tier.hand_on(milliseconds(100)) == Reason::kNone);
  tier.now += milliseconds(103);
  REQUIRE(tier.service().size() == 1);
  CHECK(tier.upstream.links(tier.now)[0].service == milliseconds(400));
}

TEST_CASE("upstream: a node that says when to come back is left alone until then") {
  Troupe tier(1);
  REQUIRE(tier.hand_on() == Reason::kNone);
  tier.nodes[0].fault(FaultCode::kOverloaded, 400'000);
  CHECK(tier.service().at(0).verdict.degraded == Reason::kOverloaded);
  tier.now += milliseconds(399);
  CHECK(tier.hand_on() == Reason::kOverloaded);
  tier.now += milliseconds(1);
  CHECK(tier.hand_on() == Reason::kNone);
}

TEST_CASE("upstream: a node may ask to be left alone for half a minute, not for an hour") {
  Troupe tier(1);
  REQUIRE(tier.hand_on() == Reason::kNone);
  tier.nodes[0].fault(FaultCode::kOverloaded, 3'600'000'000);
  tier.service();
  tier.now += seconds(29);
  CHECK(tier.hand_on() == Reason::kOverloaded);
  tier.now += seconds(1);
  CHECK(tier.hand_on() == Reason::kNone);
}

TEST_CASE("upstream: a node that is late again and again is asked no more, then once") {
  Troupe tier(1);
  for (int i = 0; i < 5; ++i) {
    REQUIRE(tier.hand_on(milliseconds(100)) == Reason::kNone);
    tier.now += milliseconds(103);
    CHECK(tier.service().size() == 1);
    tier.now += seconds(6);  // so that what was measured does not keep it from being asked
  }
  tier.now -= seconds(6);
  CHECK(tier.upstream.links(tier.now)[0].breaker == BreakerState::kOpen);
  CHECK(tier.hand_on() == Reason::kLate);
  tier.now += seconds(6);
  CHECK(tier.hand_on() == Reason::kNone);
  CHECK(tier.hand_on() == Reason::kLate);
  tier.nodes[0].answer_last();
  CHECK(tier.service().size() == 1);
  CHECK(tier.hand_on() == Reason::kNone);
}

TEST_CASE("upstream: local-only has no next tier, whatever there is") {
  Troupe tier(2, Policy::kLocalOnly);
  CHECK(tier.upstream.none());
  CHECK(tier.hand_on() == Reason::kNoNext);
  CHECK_FALSE(tier.nodes[0].alive);
}

TEST_CASE("upstream: another model is an error when no node is left, else a line in the log") {
  Troupe tier(2);
  tier.nodes[0].state = LinkState::kMismatched;
  tier.nodes[0].events.emplace_back(LinkRefused{.fault = {}, .why = "the first"});
  tier.service();
  CHECK_FALSE(tier.upstream.take_refusal());
  CHECK(tier.said.back() == "next tier refused: the first");
  CHECK(tier.hand_on() == Reason::kNone);
  tier.nodes[1].state = LinkState::kMismatched;
  tier.nodes[1].events.emplace_back(LinkRefused{.fault = {}, .why = "the second"});
  tier.service();
  const std::optional<LinkRefused> refusal = tier.upstream.take_refusal();
  REQUIRE(refusal);
  CHECK(refusal->why == "the second");
  CHECK_FALSE(tier.upstream.take_refusal());
}

}  // namespace
}  // namespace offramp::test
