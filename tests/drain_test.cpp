// A node that is stopped while it has work: what it has taken is answered, and what it cannot
// answer is counted.
#include <doctest/doctest.h>

#include <thread>

#include "net/device.h"
#include "net/node.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

}  // namespace

TEST_CASE("drain: stopping under load loses nothing") {
  const SmallCascade cascade(Thresholds::kNone, 50);
  NodeOptions options = whole_edge();
  options.workers = 2;
  options.before_compute = [] { std::this_thread::sleep_for(milliseconds(1)); };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  std::jthread stopper = beside([&] {
    CHECK(eventually([&] { return edge.counters().answers > 100; }));
    edge.stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint()), {});
  const auto outcomes = run_all(device, cascade, 2000);
  stopper.join();
  const NodeCounters counters = edge.counters();
  CHECK(counters.requests == counters.answers);
  CHECK(counters.undeliverable == 0);
  CHECK(count_reason(outcomes, Reason::kNone) == counters.answers);
  // Draining was told, so that nothing was sent into the void.
  CHECK(count_reason(outcomes, Reason::kDraining) > 0);
  CHECK(count_reason(outcomes, Reason::kPeerLost) == 0);
  CHECK(count_reason(outcomes, Reason::kLate) == 0);
}

TEST_CASE("drain: when the time to stop is over, what the next tier still has is answered") {
  const SmallCascade cascade(Thresholds::kNone, 8);
  HeldWork work;
  NodeOptions slow = cloud_options();
  slow.before_compute = [&] { work.wait(); };
  NodeOptions options = edge_options();
  options.drain = milliseconds(50);
  TwoNodes nodes(cascade, options, slow);
  std::jthread stopper = beside([&] {
    CHECK(eventually([&] { return nodes.edge->counters().forwarded == 8; }));
    nodes.edge->stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint()), {});
  const auto outcomes = run_all(device, cascade);
  stopper.join();
  work.hold = false;
  CHECK(count_reason(outcomes, Reason::kLate) == 8);
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    CHECK(outcomes[i].decision == cascade.at_exit(i, 1));
  CHECK(nodes.edge->counters().answers == 8);
  CHECK(nodes.edge->counters().unanswered == 0);
}

TEST_CASE("drain: work that outlasts the time to stop is counted, and not waited for") {
  const SmallCascade cascade(Thresholds::kNone, 2);
  HeldWork work;
  NodeOptions options = edge_options();
  options.drain = milliseconds(50);
  options.before_compute = [&] { work.wait(); };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  std::jthread stopper = beside([&] {
    CHECK(eventually([&] { return edge.counters().requests == 2; }));
    edge.stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint()), {});
  const auto outcomes = run_all(device, cascade);
  stopper.join();
  CHECK(count_reason(outcomes, Reason::kPeerLost) == 2);
  CHECK(edge.counters().unanswered == 2);
  work.hold = false;
}

}  // namespace offramp::test
