// What a node says of itself: buckets, the sums of a run, and the signs that it is alive.
#include "net/telemetry.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <thread>

#include "net/device.h"
#include "net/loopback.h"
#include "net/node.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::uint64_t total(const HistogramCounts& histogram) {
  return std::accumulate(histogram.counts.begin(), histogram.counts.end(), std::uint64_t{0});
}

}  // namespace

TEST_CASE("telemetry: a value belongs to the first bucket whose bound is not below it") {
  static constexpr double kBounds[] = {1.0, 2.0, 4.0};
  Histogram histogram(kBounds);
  for (const double value : {0.0, 1.0, 1.5, 2.0, 4.0, 4.1, 1e9}) histogram.observe(value);
  histogram.observe(std::numeric_limits<double>::quiet_NaN());
  const HistogramCounts counts = histogram.counts();
  CHECK(counts.counts == std::vector<std::uint64_t>{2, 2, 1, 3});
  CHECK(counts.sum == doctest::Approx(1e9 + 12.6));
}

TEST_CASE("telemetry: bounds ascend") {
  for (const auto bounds : {latency_bounds_us(), entropy_bounds(), batch_bounds()})
    CHECK(std::ranges::adjacent_find(bounds, std::greater_equal<>()) == bounds.end());
}

TEST_CASE("telemetry: there is a place for every number of the wire") {
  Telemetry telemetry(3);
  for (std::uint8_t i = 0; i < kReasonCount; ++i)
    telemetry.answered(Verdict{.decision = {.exit = 2}, .degraded = static_cast<Reason>(i)});
  for (std::uint16_t i = 1; i < kFaultCodeCount; ++i) telemetry.faulted(static_cast<FaultCode>(i));
  for (std::uint8_t i = 0; i < kMalformedCount; ++i) telemetry.malformed(static_cast<Malformed>(i));
  const NodeCounters counters = telemetry.counters();
  CHECK(counters.answers == kReasonCount);
  CHECK(counters.degraded == kReasonCount - 1);
  CHECK(counters.faults == kFaultCodeCount - 1);
  CHECK(std::ranges::count(counters.malformed, 1u) == kMalformedCount);
  // The next number of each has no name: the tables end where the enumerations do.
  const auto nameless = [](const std::string& name) { return name == "unknown"; };
  CHECK(nameless(reason_name(static_cast<Reason>(kReasonCount))));
  CHECK(nameless(fault_name(static_cast<FaultCode>(kFaultCodeCount))));
  CHECK(nameless(dtype_name(static_cast<DType>(kDTypeCount))));
  CHECK(nameless(breaker_name(static_cast<BreakerState>(kBreakerStateCount))));
  CHECK(nameless(link_state_name(static_cast<LinkState>(kLinkStateCount))));
}

TEST_CASE("telemetry: what two nodes tell of a run adds up") {
  const SmallCascade cascade(SmallCascade::Thresholds::kMixed);
  NodeOptions packing = edge_options();
  packing.format = {.dtype = DType::kU8, .codec = Codec::kRaw};
  const TwoNodes nodes(cascade, packing);
  Node &edge = *nodes.edge, &cloud = *nodes.cloud;
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint()), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  std::array<std::uint64_t, 3> by_exit{};
  for (const Outcome& outcome : outcomes) {
    REQUIRE(outcome.degraded == Reason::kNone);
    ++by_exit.at(static_cast<std::size_t>(outcome.decision.exit));
  }

  // The device may have its last answer before the node's turn is over.
  REQUIRE(eventually([&] { return edge.telemetry().load.away == 0; }));
  const TelemetrySnapshot at_edge = edge.telemetry(), at_cloud = cloud.telemetry();
  CHECK(at_edge.counters.requests == by_exit[1] + by_exit[2]);
  CHECK(at_edge.counters.answers == by_exit[1] + by_exit[2]);
  CHECK(at_edge.counters.forwarded == by_exit[2]);
  CHECK(at_edge.answers.at(1).at(0) == by_exit[1]);
  CHECK(at_edge.answers.at(2).at(0) == by_exit[2]);
  CHECK(at_cloud.answers.at(2).at(0) == by_exit[2]);
  for (const HistogramCounts* each :
       {&at_edge.latency_us, &at_edge.queue_us, &at_edge.compute_us, &at_edge.batch})
    CHECK(total(*each) == by_exit[1] + by_exit[2]);
  CHECK(total(at_edge.entropy.at(0)) == 0);
  CHECK(total(at_edge.entropy.at(1)) == by_exit[1] + by_exit[2]);
  CHECK(total(at_cloud.entropy.at(2)) == by_exit[2]);
  CHECK(at_edge.latency_us.sum >= at_edge.compute_us.sum);

  const auto of = [](const TrafficTable& table, DType dtype) {
    return table[static_cast<std::size_t>(dtype)][static_cast<std::size_t>(Codec::kRaw)];
  };
  const Shape first = cascade.stages()[1].plan().input_shape();
  CHECK(of(at_edge.received, DType::kF32).tensors == by_exit[1] + by_exit[2]);
  CHECK(of(at_edge.received, DType::kF32).bytes ==
        (by_exit[1] + by_exit[2]) * first.elements() * sizeof(float));
  CHECK(of(at_edge.sent, DType::kU8).tensors == by_exit[2]);
  CHECK(of(at_edge.sent, DType::kU8).bytes == of(at_cloud.received, DType::kU8).bytes);

  // Links are copied less often than they change.
  CHECK(eventually([&] { return edge.telemetry().links.at(0).state == LinkState::kUp; }));
  REQUIRE(at_edge.links.size() == 1);
  CHECK(at_edge.links[0].endpoint == cloud.endpoint());
  CHECK(edge.telemetry().links.at(0).window == 64);
  CHECK(at_cloud.links.empty());
  CHECK(at_edge.load.sessions == 1);
  CHECK(at_edge.load.queued == 0);
  CHECK_FALSE(at_edge.draining);
  edge.stop();
  CHECK(edge.telemetry().draining);
  CHECK(edge.counters().answers == at_edge.counters.answers);
}

TEST_CASE("telemetry: workers that do not answer are told from those that do") {
  const SmallCascade cascade(SmallCascade::Thresholds::kNone);
  HeldWork work;
  Loopback cable;
  NodeOptions options{.tier = Tier::kEdge, .loopbacks = {&cable}};
  options.before_compute = [&] { work.wait(); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Device device(cascade.stages(), cascade.id(), {.deadline = seconds(30)},
                cable.connect(cascade.link()), {});
  std::jthread pictures = beside([&] { run_all(device, cascade, 1); });
  CHECK(eventually([&] { return work.taken.load(); }));
  CHECK(eventually([&] { return node.telemetry().workers_silent > milliseconds(300); }));
  // The loop goes on meanwhile.
  CHECK(eventually([&] { return node.telemetry().loop_silent < seconds(1); }));
  CHECK(node.telemetry().load.in_work == 1);
  work.hold = false;
  pictures.join();
  CHECK(eventually([&] { return node.telemetry().workers_silent == milliseconds(0); }));
}

}  // namespace offramp::test
