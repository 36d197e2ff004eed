// The tier after this one, with nodes that are puppets and time that is told: who gets a request,
// what is tried again, what is called back. Every request comes to exactly one end.
#include "net/upstream.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <thread>

#include "net/elapsed.h"

namespace offramp::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

// What a puppet's owner sees and pulls.
struct Strings {
  LinkState state = LinkState::kUp;
  int window = 8;
  LinkLoad load{};
  microseconds round_trip{0};
  std::vector<Handoff> got{};
  std::vector<RequestId> cancelled{};
  std::vector<LinkEvent> events{};
  bool alive = false;

  void answer(const RequestId& id) {
    events.emplace_back(Verdict{.request = id,
                                .decision = {.label = 2, .exit = 1},
                                .hops = {Hop{.tier = Tier::kEdge, .compute_us = 100}}});
  }
  void answer_last() { answer(got.back().request); }
  void fault(FaultCode code, std::uint32_t retry_after_us = 0) {
    events.emplace_back(
        Fault{.request = got.back().request, .code = code, .retry_after_us = retry_after_us});
  }
  void lose(bool silent = false) {
    state = LinkState::kDown;
    events.emplace_back(LinkDown{"lost", silent});
  }
  void greet() {
    state = LinkState::kUp;
    events.emplace_back(LinkUp{});
  }
};

class Puppet final : public Channel {
 public:
  Puppet(Strings& strings, std::string endpoint)
      : strings_(strings), endpoint_(std::move(endpoint)) {
    strings_.alive = true;
  }
  ~Puppet() override { strings_.alive = false; }

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    strings_.got.push_back(handoff);
    sent_bytes = 100;
    return true;
  }
  void cancel(const RequestId& request) override { strings_.cancelled.push_back(request); }
  void service(Clock::time_point, std::vector<LinkEvent>& events) override {
    for (LinkEvent& event : strings_.events) events.emplace_back(std::move(event));
    strings_.events.clear();
  }
  void waitables(std::vector<Waitable>&) const override {}
  Clock::time_point due() const override { return Clock::time_point::max(); }
  LinkState state() const override { return strings_.state; }
  int window() const override { return strings_.window; }
  bool takes_pictures() const override { return false; }
  LinkLoad load() const override { return strings_.load; }
  microseconds round_trip() const override { return strings_.round_trip; }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  Strings& strings_;
  std::string endpoint_;
};

// Some nodes behind one Upstream.
struct Troupe {
  explicit Troupe(std::size_t count, Policy policy = Policy::kBalanced, std::uint64_t seed = 1)
      : nodes(count), upstream(links(seed), policy, WireModelId{}, 1, [this](LogLevel, auto& line) {
          said.push_back(line);
        }) {}

  NextNodes links(std::uint64_t seed) {
    NextNodes next;
    for (std::size_t i = 0; i < nodes.size(); ++i)
      next.links.push_back(std::make_unique<Puppet>(nodes[i], "puppet " + std::to_string(i)));
    next.seed = seed;
    return next;
  }

  Reason hand_on(milliseconds budget = milliseconds(1000)) {
    Request request{
        .ticket = next_ticket,
        .own = {.request = make_request_id(77, next_ticket), .decision = {}, .hops = {Hop{}}},
        .tensor = {.shape = {}, .raw_bytes = 3, .payload = {1, 2, 3}},
        .answer_by = now + budget + 2 * kTimerMargin};
    const Reason reason = upstream.hand_on(request, now);
    if (reason == Reason::kNone)
      ++next_ticket;
    else
      CHECK(request.tensor.payload.size() == 3);
    return reason;
  }
  std::vector<Settled> service() {
    std::vector<Settled> settled;
    upstream.service(now, settled);
    return settled;
  }
  // The node that got a request last sent, and the other of two.
  Strings& busy() { return nodes[0].got.empty() ? nodes[1] : nodes[0]; }
  Strings& idle() { return &busy() == &nodes[0] ? nodes[1] : nodes[0]; }
  std::size_t sent() const {
    std::size_t sum = 0;
    for (const Strings& node : nodes) sum += node.got.size();
    return sum;
  }

  std::vector<Strings> nodes;
  std::vector<std::string> said;
  Clock::time_point now{std::chrono::hours(1)};
  std::uint64_t next_ticket = 0;
  Upstream upstream;
};

LinkLoad pace(Clock::time_point at, std::uint32_t queue, milliseconds service, int workers) {
  return {.at = at, .queue_depth = queue, .service = service, .workers = workers};
}

}  // namespace

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

}  // namespace offramp::test
