// What becomes of a request to the next tier: answered, tried once more elsewhere, given up, called
// back. Each comes to exactly one end.
#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "tests/test_puppets.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;

TEST_CASE("upstream: an answer goes home behind this tier's hop") {
  Troupe tier(1);
  REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.nodes[0].got[0].attempt == 0);
  tier.now += milliseconds(7);
  tier.nodes[0].answer_last();
  const std::vector<Settled> settled = tier.service();
  REQUIRE(settled.size() == 1);
  CHECK(settled[0].ticket == 0);
  const Verdict& verdict = settled[0].verdict;
  CHECK(verdict.request == make_request_id(77, 0));
  CHECK(verdict.decision.label == 2);
  CHECK(verdict.degraded == Reason::kNone);
  REQUIRE(verdict.hops.size() == 2);
  CHECK(verdict.hops[0].sent_bytes == 100);
  CHECK(verdict.hops[0].wait_us == 7000);
  CHECK(tier.upstream.away() == 0);
}

TEST_CASE("upstream: what a node loses or refuses is tried once more, elsewhere") {
  for (const FaultCode code :
       {FaultCode::kVersion, FaultCode::kOverloaded, FaultCode::kDraining, FaultCode::kNoSession}) {
    for (const bool answered : {true, false}) {
      CAPTURE(fault_name(code));
      Troupe tier(2);
      REQUIRE(tier.hand_on() == Reason::kNone);
      Strings &first = tier.busy(), &second = tier.idle();
      if (code == FaultCode::kVersion)
        first.lose();  // in place of a fault
      else
        first.fault(code);
      CHECK(tier.service().empty());
      REQUIRE(second.got.size() == 1);
      CHECK(second.got[0].attempt == 1);
      CHECK(second.got[0].request == first.got[0].request);
      CHECK(second.got[0].tensor == first.got[0].tensor);
      if (answered)
        second.answer_last();
      else
        second.lose();
      const std::vector<Settled> settled = tier.service();
      REQUIRE(settled.size() == 1);
      CHECK(settled[0].verdict.degraded == (answered ? Reason::kNone : Reason::kPeerLost));
      CHECK(settled[0].verdict.hops[0].sent_bytes == 200);
      CHECK(tier.sent() == 2);  // and not a third time
      const std::vector<LinkStatus> links = tier.upstream.links(tier.now);
      CHECK(links[0].retried + links[1].retried == 1);
      CHECK(links[0].sent + links[1].sent == 2);
      CHECK(links[0].away + links[1].away == 0);
    }
  }
}

TEST_CASE("upstream: nothing is tried again in vain") {
  Troupe tier(2);
  FaultCode code = FaultCode::kOverloaded;
  Reason reason = Reason::kOverloaded;
  milliseconds passed{0};
  SUBCASE("the sample itself is bad") {
    code = FaultCode::kBadTensor;
    reason = Reason::kRefused;
  }
  SUBCASE("its time had run out there") {
    code = FaultCode::kExpired;
    reason = Reason::kExpired;
  }
  SUBCASE("there is no time left") { passed = milliseconds(900); }
  SUBCASE("there is no other node") { tier.nodes[0].state = LinkState::kDown; }
  if (passed.count() > 0)
    for (Strings& node : tier.nodes) {
      node.greet();
      node.load = pace(tier.now, 0, milliseconds(200), 1);
    }
  tier.service();
  REQUIRE(tier.hand_on() == Reason::kNone);
  tier.now += passed;
  tier.busy().fault(code);
  const std::vector<Settled> settled = tier.service();
  REQUIRE(settled.size() == 1);
  CHECK(settled[0].verdict.degraded == reason);
  CHECK(settled[0].verdict.request == make_request_id(77, 0));
  CHECK(tier.sent() == 1);
}

TEST_CASE("upstream: retries are a share of what succeeds") {
  Troupe tier(2);
  tier.nodes[0].window = tier.nodes[1].window = 100;
  std::size_t given_up = 0;
  for (int i = 0; i < 12; ++i) {
    const std::size_t before = tier.nodes[0].got.size();
    REQUIRE(tier.hand_on() == Reason::kNone);
    tier.nodes[tier.nodes[0].got.size() > before ? 0 : 1].fault(FaultCode::kDraining);
    given_up += tier.service().size();
  }
  CHECK(given_up == 2);
}

TEST_CASE("upstream: at the deadline the own answer is given and the node is told") {
  Troupe tier(1);
  REQUIRE(tier.hand_on(milliseconds(100)) == Reason::kNone);
  const RequestId id = tier.nodes[0].got[0].request;
  tier.now += milliseconds(102);
  CHECK(tier.service().empty());
  CHECK(tier.upstream.due() == tier.now + milliseconds(1));
  tier.now += milliseconds(1);
  const std::vector<Settled> settled = tier.service();
  REQUIRE(settled.size() == 1);
  CHECK(settled[0].verdict.degraded == Reason::kLate);
  CHECK(tier.nodes[0].cancelled == std::vector<RequestId>{id});
  tier.nodes[0].answer(id);
  CHECK(tier.service().empty());
  CHECK(tier.upstream.unmatched() == 1);
}

TEST_CASE("upstream: of two answers the first counts, and one that was not asked for does not") {
  Troupe tier(2);
  REQUIRE(tier.hand_on() == Reason::kNone);
  Strings &first = tier.busy(), &second = tier.idle();
  const RequestId id = first.got[0].request;
  second.answer(id);
  CHECK(tier.service().empty());
  CHECK(tier.upstream.unmatched() == 1);
  first.fault(FaultCode::kNoSession);
  tier.service();
  REQUIRE(second.got.size() == 1);
  first.answer(id);
  CHECK(tier.service().size() == 1);
  CHECK(second.cancelled == std::vector<RequestId>{id});
  second.answer(id);
  CHECK(tier.service().empty());
  CHECK(tier.upstream.unmatched() == 2);
}

TEST_CASE("upstream: a silent node's requests go elsewhere at once; greeting, it gets one") {
  Troupe tier(2);
  for (int i = 0; i < 4; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  REQUIRE(tier.nodes[0].got.size() == 2);
  tier.nodes[0].lose(true);
  CHECK(tier.service().empty());
  CHECK(tier.nodes[1].got.size() == 4);
  CHECK(tier.upstream.links(tier.now)[0].breaker == BreakerState::kOpen);
  tier.nodes[0].greet();
  tier.service();
  CHECK(tier.upstream.links(tier.now)[0].breaker == BreakerState::kHalfOpen);
  for (int i = 0; i < 4; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.nodes[0].got.size() == 3);
  tier.nodes[0].answer_last();
  tier.service();
  for (int i = 0; i < 4; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.nodes[0].got.size() >= 6);
}

TEST_CASE("upstream: a request may be called back, or all of them") {
  Troupe tier(1);
  for (int i = 0; i < 3; ++i) REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.upstream.cancel(1));
  CHECK_FALSE(tier.upstream.cancel(1));
  CHECK(tier.nodes[0].cancelled == std::vector<RequestId>{tier.nodes[0].got[1].request});
  CHECK(tier.upstream.links(tier.now)[0].away == 2);
  std::vector<Settled> settled;
  tier.upstream.give_up(Reason::kDraining, tier.now, settled);
  CHECK(settled.size() == 2);
  CHECK(settled[0].verdict.degraded == Reason::kDraining);
  CHECK(tier.nodes[0].cancelled.size() == 3);
  CHECK(tier.upstream.away() == 0);
}

TEST_CASE("upstream: answer-first asks for half of the time and never twice") {
  Troupe tier(2, Policy::kAnswerFirst);
  for (Strings& node : tier.nodes) {
    node.greet();
    node.load = pace(tier.now, 0, milliseconds(100), 1);
  }
  tier.service();
  CHECK(tier.hand_on(milliseconds(190)) == Reason::kLate);
  REQUIRE(tier.hand_on(milliseconds(210)) == Reason::kNone);
  tier.busy().lose();
  CHECK(tier.service().at(0).verdict.degraded == Reason::kPeerLost);
  CHECK(tier.sent() == 1);
}

}  // namespace
}  // namespace offramp::test
