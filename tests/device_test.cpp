// A device and its edge, which is absent, late, stuck, gone or another: each picture has an answer
// in time, and says why it is not the cascade's.
#include "net/device.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "engine/error.h"
#include "net/elapsed.h"
#include "net/node.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

// A next tier that tells of each request and answers it at once.
class AtOnce final : public Channel {
 public:
  explicit AtOnce(std::function<void(const Handoff&)> tell, std::vector<Hop> hops = {})
      : tell_(std::move(tell)), hops_(std::move(hops)) {}

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    tell_(handoff);
    sent_bytes = 1;
    answers_.push_back(Verdict{.request = handoff.request,
                               .decision = {.label = 1, .probability = 1, .entropy = 0, .exit = 1},
                               .tier = Tier::kEdge,
                               .degraded = Reason::kNone,
                               .hops = hops_});
    return true;
  }
  void service(Clock::time_point, std::vector<LinkEvent>& events) override {
    for (Verdict& verdict : answers_) events.push_back(std::move(verdict));
    answers_.clear();
  }
  void waitables(std::vector<Waitable>&) const override {}
  Clock::time_point due() const override { return Clock::now(); }
  LinkState state() const override { return LinkState::kUp; }
  void cancel(const RequestId&) override {}
  int window() const override { return 64; }
  bool takes_pictures() const override { return false; }
  LinkLoad load() const override { return {}; }
  std::chrono::microseconds round_trip() const override { return {}; }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  std::function<void(const Handoff&)> tell_;
  std::vector<Hop> hops_;
  std::vector<Verdict> answers_;
  std::string endpoint_ = "at once";
};

}  // namespace

TEST_CASE("device: alone, it answers at once and says so") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  SUBCASE("no next tier configured") {
    Device device(cascade.stages(), cascade.id(), kPatient, nullptr, {});
    const auto outcomes = run_all(device, cascade);
    CHECK(count_reason(outcomes, Reason::kNoNext) == outcomes.size());
    CHECK(outcomes[3].decision == cascade.at_exit(3, 0));
  }
  SUBCASE("nobody listens") {
    std::string vacant;
    {
      const Node gone(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
      vacant = gone.endpoint();
    }
    const auto start = Clock::now();
    Device device(cascade.stages(), cascade.id(), {.connect_grace = milliseconds(100)},
                  to(cascade, vacant), {});
    const auto outcomes = run_all(device, cascade);
    CHECK(count_reason(outcomes, Reason::kDisconnected) == outcomes.size());
    CHECK(outcomes[3].decision == cascade.at_exit(3, 0));
    CHECK(outcomes[3].tier == Tier::kDevice);
    CHECK(Clock::now() - start < milliseconds(1000));
  }
}

TEST_CASE("device: may be started before its next tier") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  std::string endpoint;
  {
    const Node gone(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
    endpoint = gone.endpoint();
  }
  Device device(cascade.stages(), cascade.id(),
                {.deadline = milliseconds(5000), .connect_grace = milliseconds(4000)},
                to(cascade, endpoint), {});
  std::unique_ptr<Node> edge;
  std::jthread later = beside([&] {
    std::this_thread::sleep_for(milliseconds(250));
    edge = start(cascade, whole_edge(endpoint));
  });
  const auto outcomes = run_all(device, cascade);
  later.join();
  CHECK(count_reason(outcomes, Reason::kNone) == outcomes.size());
}

TEST_CASE("device: an edge that goes away mid-run costs no answer") {
  const SmallCascade cascade(Thresholds::kNone, 50);
  auto edge = start(cascade, whole_edge());
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge->endpoint()), {});
  std::jthread closer = beside([&] {
    CHECK(eventually([&] { return edge->counters().answers > 200; }));
    edge.reset();
  });
  const auto outcomes = run_all(device, cascade, 5000);
  closer.join();
  CHECK(count_reason(outcomes, Reason::kNone) >= 200);
  CHECK(outcomes.back().degraded != Reason::kNone);
  CHECK(outcomes.back().tier == Tier::kDevice);
  CHECK(count_reason(outcomes, Reason::kLate) == 0);
}

TEST_CASE("device: what encoding takes is not promised to the next tier") {
  const LargeCascade cascade(256);
  const TensorFormat format{DType::kU8PerChannel, Codec::kLz4};
  const Shape carry = cascade.stages[0].plan().carry_shape();
  std::mt19937 random(5);
  const std::vector<float> values = random_floats(random, carry.elements(), 0.0f, 1.0f);
  Clock::duration encoding = Clock::duration::max();
  for (int i = 0; i < 5; ++i) {
    const Clock::time_point begin = Clock::now();
    encode_tensor({.data = values.data(), .batch = 1, .shape = carry}, format);
    encoding = std::min(encoding, Clock::now() - begin);
  }

  // By the time of sending, at most that may be left for the next tier which is left.
  Clock::time_point ready{};
  Clock::duration excess = Clock::duration::max();
  auto next = std::make_unique<AtOnce>([&](const Handoff& handoff) {
    const auto until = Clock::now() + std::chrono::microseconds(handoff.budget_us);
    excess = std::min(excess, until + 2 * kTimerMargin - (ready + kPatient.deadline));
  });
  DeviceOptions options = kPatient;
  options.format = format;
  Device device(cascade.stages, cascade.model.id, options, std::move(next), {});
  int answers = 0;
  device.run(
      20,
      [&](std::size_t, std::span<float> input) {
        for (float& pixel : input) pixel = static_cast<float>(random() % 1000) / 1000.0f;
        ready = Clock::now();
        return true;
      },
      [&](std::size_t, const Outcome& outcome) {
        if (outcome.degraded == Reason::kNone) ++answers;
      });
  CHECK(answers == 20);
  CHECK(excess < encoding / 2);
}

TEST_CASE("device: what tiers worked is not on the wire, though one says it did not wait for it") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  auto next = std::make_unique<AtOnce>(
      [](const Handoff&) { std::this_thread::sleep_for(milliseconds(30)); },
      std::vector<Hop>{{.tier = Tier::kEdge, .compute_us = 1000, .wait_us = 10},
                       {.tier = Tier::kCloud, .queue_us = 4000, .compute_us = 6000}});
  Device device(cascade.stages(), cascade.id(), kPatient, std::move(next), {});
  const Outcome outcome = run_all(device, cascade).at(0);
  REQUIRE(outcome.hops.size() == 3);
  CHECK(outcome.wire_us == outcome.hops[0].wait_us - 11000);
  CHECK(outcome.hops[0].wait_us >= 30000);
}

TEST_CASE("device: a late edge is not waited for beyond the deadline") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  std::atomic<bool> late{false};
  NodeOptions slow = edge_options();
  slow.before_compute = [&] {
    if (late) std::this_thread::sleep_for(milliseconds(150));
  };
  Node edge(cascade.stages(), cascade.id(), slow, nullptr, {});
  Device device(cascade.stages(), cascade.id(), {.deadline = milliseconds(100)},
                to(cascade, edge.endpoint()), {});
  connect(device, cascade);
  late = true;
  for (const Outcome& outcome : run_all(device, cascade)) {
    // Once it knows how slow it is, the edge says so at once.
    CHECK((outcome.degraded == Reason::kLate || outcome.degraded == Reason::kExpired ||
           outcome.degraded == Reason::kOverloaded));
    CHECK(outcome.tier == Tier::kDevice);
    CHECK(outcome.total_us < 100'000 + kSlackUs);
  }
}

TEST_CASE("device: a stuck edge is noticed by its silence") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  HeldWork work{.hold = false};
  NodeOptions options = edge_options();
  options.before_compute = [&] { work.wait(); };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  ZmqChannelOptions quick;
  quick.times.ping_active = milliseconds(50);
  Device device(cascade.stages(), cascade.id(), {.deadline = milliseconds(3000)},
                to(cascade, edge.endpoint(), 1, quick), {});
  connect(device, cascade);
  work.hold = true;
  const auto outcomes = run_all(device, cascade);
  work.hold = false;
  CHECK(count_reason(outcomes, Reason::kPeerLost) >= 8);
  CHECK(count_reason(outcomes, Reason::kNone) == 0);
  for (const Outcome& outcome : outcomes) CHECK(outcome.total_us < 2'000'000);
}

TEST_CASE("device: a next tier with another model is an error that names both") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  Node edge(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
  ModelId other = cascade.id();
  other[0] ^= 0xff;
  Device device(cascade.stages(), other, {},
                connect_zmq(edge.endpoint(), link_identity(cascade.stages(), other, 1)), {});
  try {
    run_all(device, cascade);
    FAIL("wanted an error, found none");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kBadModel);
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(what.find(short_id(cascade.id())) != std::string::npos);
    CHECK(what.find(short_id(other)) != std::string::npos);
    CHECK(what.find(edge.endpoint()) != std::string::npos);
  }
}

}  // namespace offramp::test
