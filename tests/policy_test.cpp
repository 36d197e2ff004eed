// What a device and an edge do under each policy when the whole cascade's answer cannot be had.
#include "net/policy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "net/device.h"
#include "net/node.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

DeviceOptions patient(Policy policy) {
  DeviceOptions options = kPatient;
  options.policy = policy;
  return options;
}

NodeOptions with_policy(NodeOptions options, Policy policy) {
  options.policy = policy;
  return options;
}

}  // namespace

TEST_CASE("policy: each has a name, and no other name is one") {
  for (const Policy policy :
       {Policy::kBalanced, Policy::kAnswerFirst, Policy::kStrict, Policy::kLocalOnly})
    CHECK(policy_named(policy_name(policy)) == policy);
  for (const char* other : {"", "Strict", "best", "strict "}) CHECK_FALSE(policy_named(other));
}

TEST_CASE("policy: when all is well, answers are the cascade's under all that hand on") {
  const SmallCascade cascade(Thresholds::kMixed);
  const Node edge(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  for (const Policy policy : {Policy::kBalanced, Policy::kAnswerFirst, Policy::kStrict}) {
    Device device(cascade.stages(), cascade.id(), patient(policy), to(cascade, edge.endpoint()),
                  {});
    const std::vector<Outcome> outcomes = run_all(device, cascade);
    check_whole(outcomes, cascade);
    for (const Outcome& outcome : outcomes) {
      CHECK(outcome.answered);
      CHECK_FALSE(outcome.local);
    }
  }
}

TEST_CASE("policy: a strict device gives no guess, but what it is sure of") {
  const SmallCascade cascade(Thresholds::kMixed);
  NextNodes next;
  Reason reason = Reason::kNoNext;
  std::unique_ptr<Node> edge;
  SUBCASE("no next tier") {}
  SUBCASE("an edge without a cloud, which guesses") {
    edge = start(cascade, edge_options());
    next = to(cascade, edge->endpoint());
  }
  Device device(cascade.stages(), cascade.id(), patient(Policy::kStrict), std::move(next), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  std::size_t without = 0;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const Outcome& outcome = outcomes[i];
    const int reachable = edge ? 1 : 0;
    CHECK(outcome.answered == (cascade.expected()[i].exit <= reachable));
    if (outcome.answered) {
      CHECK(outcome.decision == cascade.expected()[i]);
      continue;
    }
    ++without;
    CHECK(outcome.degraded == reason);
    CHECK(outcome.decision == Decision{});
    CHECK(outcome.probabilities.empty());
  }
  CHECK(without > 5);
}

TEST_CASE("policy: a strict edge refuses where another would guess") {
  const SmallCascade cascade(Thresholds::kMixed);
  const Node edge(cascade.stages(), cascade.id(), with_policy(edge_options(), Policy::kStrict),
                  nullptr, {});
  Device device(cascade.stages(), cascade.id(), patient(Policy::kBalanced),
                to(cascade, edge.endpoint()), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (cascade.expected()[i].exit < 2) {
      CHECK(outcomes[i].decision == cascade.expected()[i]);
      CHECK(outcomes[i].degraded == Reason::kNone);
      continue;
    }
    ++refused;
    CHECK(outcomes[i].degraded == Reason::kRefused);
    CHECK(outcomes[i].decision == cascade.at_exit(i, 0));
  }
  CHECK(refused > 5);
  CHECK(edge.counters().faults == refused);
}

TEST_CASE("policy: a strict device says that an answer was late, in time") {
  const SmallCascade cascade(Thresholds::kNone, 4);
  HeldWork work{.hold = false};
  NodeOptions options = whole_edge();
  options.before_compute = [&] { work.wait(); };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  Device device(cascade.stages(), cascade.id(),
                {.deadline = milliseconds(400),
                 .connect_grace = milliseconds(20000),
                 .policy = Policy::kStrict},
                to(cascade, edge.endpoint()), {});
  connect(device, cascade);
  work.hold = true;
  for (const Outcome& outcome : run_all(device, cascade)) {
    CHECK_FALSE(outcome.answered);
    CHECK(outcome.degraded == Reason::kLate);
    CHECK(outcome.total_us < 2'000'000);
  }
  work.hold = false;
}

TEST_CASE("policy: local-only sends nothing, and says so") {
  const SmallCascade cascade(Thresholds::kMixed);
  const Node edge(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  Device device(cascade.stages(), cascade.id(), patient(Policy::kLocalOnly),
                to(cascade, edge.endpoint()), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CHECK(outcomes[i].decision == cascade.at_exit(i, 0));
    CHECK(outcomes[i].degraded == Reason::kNone);
    CHECK(outcomes[i].answered);
    CHECK(outcomes[i].local == (cascade.expected()[i].exit > 0));
    CHECK(outcomes[i].bytes_sent() == 0);
  }
  CHECK(device.links().empty());
  CHECK(edge.counters().requests == 0);
}

TEST_CASE("policy: a local-only edge answers as one without a next tier") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  const Node cloud(cascade.stages(), cascade.id(), cloud_options(), nullptr, {});
  const Node edge(cascade.stages(), cascade.id(), with_policy(edge_options(), Policy::kLocalOnly),
                  to(cascade, cloud.endpoint(), 2), {});
  Device device(cascade.stages(), cascade.id(), patient(Policy::kBalanced),
                to(cascade, edge.endpoint()), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  CHECK(count_reason(outcomes, Reason::kNoNext) == outcomes.size());
  CHECK(cloud.counters().requests == 0);
}

}  // namespace offramp::test
