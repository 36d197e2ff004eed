// Device and nodes together, over real sockets and over loopback: the answers of the cascade bit
// for bit when all is well, an honest fallback when it is not.
#include "net/node.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <random>
#include <thread>

#include "engine/error.h"
#include "net/device.h"
#include "net/elapsed.h"
#include "net/zmq_channel.h"
#include "tests/test_keys.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

constexpr const char* kAnyPort = "tcp://127.0.0.1:*";

NodeOptions edge_options() { return {.tier = Tier::kEdge, .listen = kAnyPort}; }

NodeOptions cloud_options() { return {.tier = Tier::kCloud, .listen = kAnyPort, .first_stage = 2}; }

// How late a busy test machine may wake a thread.
constexpr std::uint64_t kSlackUs = 80'000;

// Where every answer is to come, however busy the machine.
constexpr DeviceOptions kPatient{.deadline = milliseconds(20000),
                                 .connect_grace = milliseconds(5000)};

std::unique_ptr<Channel> to(const SmallCascade& cascade, const std::string& endpoint, int stage) {
  return connect_zmq(endpoint, link_identity(cascade.stages(), cascade.id(), stage));
}

void wait_until_up(const std::function<bool()>& condition) {
  const auto until = Clock::now() + std::chrono::seconds(5);
  while (!condition() && Clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
  REQUIRE(condition());
}

// An edge and a cloud on real sockets; the edge is connected once the constructor returns.
struct TwoNodes {
  explicit TwoNodes(const SmallCascade& cascade, NodeOptions edge_opts = edge_options(),
                    NodeOptions cloud_opts = cloud_options())
      : cloud(std::make_unique<Node>(cascade.stages(), cascade.id(), std::move(cloud_opts), nullptr,
                                     Log{})),
        edge(std::make_unique<Node>(cascade.stages(), cascade.id(), std::move(edge_opts),
                                    to(cascade, cloud->endpoint(), 2),
                                    [this](LogLevel, const std::string& line) {
                                      if (line.starts_with("next tier connected")) edge_up = true;
                                    })) {
    wait_until_up([this] { return edge_up.load(); });
  }

  std::atomic<bool> edge_up{false};
  std::unique_ptr<Node> cloud, edge;
};

// The decision of the stages, one after the other, with an encoder and a decoder between them.
Decision over_a_wire(const SmallCascade& cascade, std::size_t picture, const TensorFormat& format) {
  View input = cascade.picture(picture);
  std::vector<float> received;
  for (const Stage& stage : cascade.stages()) {
    StageMemory memory = stage.make_memory();
    const Stage::Outcome outcome = stage.step(input, memory);
    if (stage.answers(outcome.decisions[0])) return outcome.decisions[0];
    const WireTensor tensor = encode_tensor(outcome.carry, format);
    received.resize(outcome.carry.elements());
    REQUIRE(!decode_tensor(tensor, outcome.carry.shape, received));
    input = {.data = received.data(), .batch = 1, .shape = outcome.carry.shape};
  }
  return {};
}

// Two stages with much to carry between them, so that encoding and decoding it takes its time.
struct LargeCascade {
  explicit LargeCascade(int side) : builder({.channels = 3, .height = side, .width = side}, 7) {
    const auto head = [this](ValueId x) {
      builder.exit(builder.linear(builder.append(GlobalAveragePool{}, {x}), 7));
    };
    const ValueId x = builder.relu(builder.conv(0, 8, 3, 1, 1));
    head(x);
    head(builder.relu(builder.conv(x, 8, 3, 8, 1)));
    model = make_model(builder.graph());
    const float thresholds[] = {0.0f};
    stages = make_stages(model, thresholds, PlanOptions{});
  }

  GraphBuilder builder;
  Model model;
  std::vector<Stage> stages;
};

// A next tier that tells of each request and answers it at once.
class AtOnce final : public Channel {
 public:
  explicit AtOnce(std::function<void(const Handoff&)> tell) : tell_(std::move(tell)) {}

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    tell_(handoff);
    sent_bytes = 1;
    answers_.push_back(Verdict{.request = handoff.request,
                               .decision = {.label = 1, .probability = 1, .entropy = 0, .exit = 1},
                               .tier = Tier::kEdge});
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
  std::vector<Verdict> answers_;
  std::string endpoint_ = "at once";
};

void check_equal(const std::vector<Outcome>& outcomes, const SmallCascade& cascade) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CAPTURE(i);
    CHECK(outcomes[i].decision == cascade.expected()[i % cascade.size()]);
    CHECK(outcomes[i].degraded == Reason::kNone);
    CHECK(static_cast<int>(outcomes[i].tier) == outcomes[i].decision.exit);
  }
}

}  // namespace

TEST_CASE("node: sockets give the cascade's decisions bit for bit") {
  for (const Thresholds thresholds : {Thresholds::kNone, Thresholds::kMixed, Thresholds::kAll}) {
    const SmallCascade cascade(thresholds);
    TwoNodes nodes(cascade);
    Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint(), 1),
                  {});
    check_equal(run_all(device, cascade), cascade);
    CHECK(device.late_answers() == 0);
  }
}

TEST_CASE("node: with each codec, sockets give what the stages say of what that codec leaves") {
  const SmallCascade cascade(Thresholds::kMixed);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel}) {
    for (const Codec codec : {Codec::kRaw, Codec::kLz4}) {
      CAPTURE(dtype_name(dtype));
      const TensorFormat format{dtype, codec};
      NodeOptions options = edge_options();
      options.format = format;
      TwoNodes nodes(cascade, options);
      DeviceOptions patient = kPatient;
      patient.format = format;
      Device device(cascade.stages(), cascade.id(), patient, to(cascade, nodes.edge->endpoint(), 1),
                    {});
      const std::vector<Outcome> outcomes = run_all(device, cascade);
      for (std::size_t i = 0; i < outcomes.size(); ++i) {
        const Outcome& outcome = outcomes[i];
        CHECK(outcome.decision == over_a_wire(cascade, i, format));
        CHECK(outcome.degraded == Reason::kNone);
        for (std::size_t hop = 0; hop + 1 < outcome.hops.size(); ++hop) {
          const Shape shape = cascade.stages()[hop].plan().carry_shape();
          const std::size_t whole = kFixedHeaderBytes + raw_bytes(shape, dtype).value();
          CHECK(outcome.hops[hop].sent_bytes <= whole);
          if (codec == Codec::kRaw) CHECK(outcome.hops[hop].sent_bytes == whole);
        }
      }
    }
  }
}

TEST_CASE("node: loopback gives the cascade's decisions bit for bit") {
  for (const Thresholds thresholds : {Thresholds::kNone, Thresholds::kMixed, Thresholds::kAll}) {
    const SmallCascade cascade(thresholds);
    Loopback device_edge, edge_cloud;
    Node cloud(cascade.stages(), cascade.id(),
               {.tier = Tier::kCloud, .loopbacks = {&edge_cloud}, .first_stage = 2}, nullptr, {});
    std::atomic<bool> edge_up{false};
    Node edge(cascade.stages(), cascade.id(), {.tier = Tier::kEdge, .loopbacks = {&device_edge}},
              edge_cloud.connect(link_identity(cascade.stages(), cascade.id(), 2)),
              [&](LogLevel, const std::string&) { edge_up = true; });
    wait_until_up([&] { return edge_up.load(); });
    Device device(cascade.stages(), cascade.id(), kPatient,
                  device_edge.connect(link_identity(cascade.stages(), cascade.id(), 1)), {});
    check_equal(run_all(device, cascade), cascade);
  }
}

TEST_CASE("node: some pictures leave at every exit, so that the comparisons mean something") {
  const SmallCascade cascade(Thresholds::kMixed);
  for (int exit = 0; exit < 3; ++exit)
    CHECK(std::ranges::count(cascade.expected(), exit, &Decision::exit) >= 5);
}

TEST_CASE("node: one node may run several stages and start at any of them") {
  const SmallCascade cascade(Thresholds::kMixed);
  NodeOptions options = edge_options();
  options.stage_count = 2;
  options.workers = 3;
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, node.endpoint(), 1), {});
  const std::vector<Outcome> outcomes = run_all(device, cascade);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CHECK(outcomes[i].decision == cascade.expected()[i]);
    CHECK(outcomes[i].degraded == Reason::kNone);
  }
  RawClient client(node.endpoint());
  const LinkIdentity third = link_identity(cascade.stages(), cascade.id(), 2);
  client.send(Hello{.session = 1, .model = third.model, .cut = 2, .shape = third.shape});
  CHECK(client.wait_for<Welcome>().has_value());
}

TEST_CASE("node: an outcome accounts for bytes and times of every tier") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  TwoNodes nodes(cascade);
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint(), 1),
                {});
  for (const Outcome& outcome : run_all(device, cascade)) {
    REQUIRE(outcome.hops.size() == 3);
    CHECK(outcome.hops[0].sent_bytes == kFixedHeaderBytes + 8 * 8 * 8 * 4);
    CHECK(outcome.hops[1].sent_bytes == kFixedHeaderBytes + 12 * 4 * 4 * 4);
    CHECK(outcome.hops[2].sent_bytes == 0);
    CHECK(outcome.bytes_sent() == outcome.hops[0].sent_bytes + outcome.hops[1].sent_bytes);
    CHECK(outcome.probabilities.size() == 7);
    std::uint64_t accounted = outcome.wire_us;
    for (const Hop& hop : outcome.hops) accounted += hop.queue_us + hop.compute_us;
    CHECK(accounted <= outcome.total_us + 3);
  }
}

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
                  to(cascade, vacant, 1), {});
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
                to(cascade, endpoint, 1), {});
  std::unique_ptr<Node> edge;
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(250));
    NodeOptions options = edge_options();
    options.listen = endpoint;
    options.stage_count = 2;
    edge = std::make_unique<Node>(cascade.stages(), cascade.id(), options, nullptr, Log{});
  });
  const auto outcomes = run_all(device, cascade);
  later.join();
  CHECK(count_reason(outcomes, Reason::kNone) == outcomes.size());
}

TEST_CASE("node: without its next tier the edge answers itself and says why") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  Node edge(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint(), 1), {});
  const auto outcomes = run_all(device, cascade);
  CHECK(count_reason(outcomes, Reason::kNoNext) == outcomes.size());
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CHECK(outcomes[i].decision == cascade.at_exit(i, 1));
    CHECK(outcomes[i].tier == Tier::kEdge);
  }
  CHECK(edge.counters().degraded == outcomes.size());
}

TEST_CASE("node: an edge that is asked before it has met its cloud waits for it a moment") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  Loopback to_edge, to_cloud;
  const LinkIdentity first = link_identity(cascade.stages(), cascade.id(), 1),
                     second = link_identity(cascade.stages(), cascade.id(), 2);
  NodeOptions edge_opts{.tier = Tier::kEdge, .loopbacks = {&to_edge}};
  const Node edge(cascade.stages(), cascade.id(), edge_opts, to_cloud.connect(second), {});
  std::unique_ptr<Node> cloud;
  SUBCASE("the cloud comes") {
    // Once the first request has been undecided at the edge for a while.
    std::jthread later([&] {
      static_cast<void>(eventually([&] { return edge.telemetry().load.away > 0; }));
      NodeOptions cloud_opts{.tier = Tier::kCloud, .loopbacks = {&to_cloud}, .first_stage = 2};
      cloud = std::make_unique<Node>(cascade.stages(), cascade.id(), cloud_opts, nullptr, Log{});
    });
    Device device(cascade.stages(), cascade.id(), kPatient, to_edge.connect(first), {});
    check_equal(run_all(device, cascade), cascade);
  }
  SUBCASE("it does not") {
    Device device(cascade.stages(), cascade.id(), kPatient, to_edge.connect(first), {});
    for (const Outcome& outcome : run_all(device, cascade)) {
      CHECK(outcome.degraded == Reason::kDisconnected);
      CHECK(outcome.tier == Tier::kEdge);
    }
  }
}

TEST_CASE("node: a cloud that goes away mid-run costs no answer, and is found again") {
  const SmallCascade cascade(Thresholds::kNone, 50);
  TwoNodes nodes(cascade);
  const std::string cloud_endpoint = nodes.cloud->endpoint();
  Device device(cascade.stages(), cascade.id(), DeviceOptions{},
                to(cascade, nodes.edge->endpoint(), 1), {});
  std::thread closer([&] {
    wait_until_up([&] { return nodes.edge->counters().answers > 200; });
    nodes.edge_up = false;
    nodes.cloud.reset();
  });
  const auto outcomes = run_all(device, cascade, 3000);
  closer.join();
  CHECK(count_reason(outcomes, Reason::kNone) >= 200);
  CHECK(outcomes.back().degraded != Reason::kNone);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const int exit = outcomes[i].degraded == Reason::kNone ? 2 : 1;
    REQUIRE(outcomes[i].decision == cascade.at_exit(i % cascade.size(), exit));
    REQUIRE(outcomes[i].total_us < 1'000'000 + kSlackUs);
  }
  NodeOptions options = cloud_options();
  options.listen = cloud_endpoint;
  nodes.cloud = std::make_unique<Node>(cascade.stages(), cascade.id(), options, nullptr, Log{});
  wait_until_up([&] { return nodes.edge_up.load(); });
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == cascade.size());
}

TEST_CASE("device: an edge that goes away mid-run costs no answer") {
  const SmallCascade cascade(Thresholds::kNone, 50);
  NodeOptions options = edge_options();
  options.stage_count = 2;
  auto edge = std::make_unique<Node>(cascade.stages(), cascade.id(), options, nullptr, Log{});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge->endpoint(), 1), {});
  std::thread closer([&] {
    wait_until_up([&] { return edge->counters().answers > 200; });
    edge.reset();
  });
  const auto outcomes = run_all(device, cascade, 5000);
  closer.join();
  CHECK(count_reason(outcomes, Reason::kNone) >= 200);
  CHECK(outcomes.back().degraded != Reason::kNone);
  CHECK(outcomes.back().tier == Tier::kDevice);
  CHECK(count_reason(outcomes, Reason::kLate) == 0);
}

TEST_CASE("node: a late cloud is not waited for beyond the deadline") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  NodeOptions slow = cloud_options();
  slow.before_compute = [] { std::this_thread::sleep_for(milliseconds(250)); };
  TwoNodes nodes(cascade, edge_options(), slow);
  Device device(cascade.stages(), cascade.id(), {.deadline = milliseconds(120)},
                to(cascade, nodes.edge->endpoint(), 1), {});
  const auto outcomes = run_all(device, cascade);
  CHECK(count_reason(outcomes, Reason::kLate) + count_reason(outcomes, Reason::kExpired) +
            count_reason(outcomes, Reason::kOverloaded) ==
        outcomes.size());
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CHECK(outcomes[i].decision == cascade.at_exit(i, static_cast<int>(outcomes[i].tier)));
    CHECK(outcomes[i].total_us < 120'000 + kSlackUs);
  }
  CHECK(std::ranges::count(outcomes, Tier::kEdge, &Outcome::tier) >= 5);
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

TEST_CASE("device: a late edge is not waited for beyond the deadline") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  NodeOptions slow = edge_options();
  slow.before_compute = [] { std::this_thread::sleep_for(milliseconds(150)); };
  Node edge(cascade.stages(), cascade.id(), slow, nullptr, {});
  Device device(cascade.stages(), cascade.id(), {.deadline = milliseconds(100)},
                to(cascade, edge.endpoint(), 1), {});
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
  std::atomic<bool> stuck{true};
  NodeOptions options = edge_options();
  options.before_compute = [&] {
    while (stuck) std::this_thread::sleep_for(milliseconds(1));
  };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  ZmqChannelOptions quick;
  quick.times.ping_active = milliseconds(50);
  Device device(
      cascade.stages(), cascade.id(), {.deadline = milliseconds(3000)},
      connect_zmq(edge.endpoint(), link_identity(cascade.stages(), cascade.id(), 1), quick), {});
  const auto outcomes = run_all(device, cascade);
  stuck = false;
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

TEST_CASE("node: an edge whose cloud has another model serves on, and says so") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  ModelId other = cascade.id();
  other[0] ^= 0xff;
  Node cloud(cascade.stages(), other, cloud_options(), nullptr, {});
  std::atomic<bool> told{false};
  Node edge(cascade.stages(), cascade.id(), edge_options(), to(cascade, cloud.endpoint(), 2),
            [&](LogLevel level, const std::string& line) {
              if (level == LogLevel::kError && line.find(short_id(other)) != std::string::npos &&
                  line.find(short_id(cascade.id())) != std::string::npos)
                told = true;
            });
  wait_until_up([&] { return told.load(); });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint(), 1), {});
  const auto outcomes = run_all(device, cascade);
  CHECK(count_reason(outcomes, Reason::kModelMismatch) == outcomes.size());
}

TEST_CASE("node: messages that take long to read do not keep it from all else") {
  const LargeCascade cascade(384);
  Loopback cable;
  std::optional<Node> node;
  // The first may have been read alone. When the second is with a worker, most of the others wait
  // in the cable, and it takes long to read them all.
  int begun = 0;
  node.emplace(cascade.stages, cascade.model.id,
               NodeOptions{.tier = Tier::kEdge,
                           .loopbacks = {&cable},
                           .drain = milliseconds(50),
                           .before_compute =
                               [&] {
                                 if (++begun == 2) node->request_stop();
                               }},
               nullptr, Log{});
  const LinkIdentity identity = link_identity(cascade.stages, cascade.model.id, 1);
  const std::unique_ptr<Channel> channel = cable.connect(identity);
  std::vector<LinkEvent> events;
  wait_until_up([&] {
    channel->service(Clock::now(), events);
    return channel->state() == LinkState::kUp;
  });
  // Packed to almost nothing, so that all of them are there before the first has been unpacked.
  const std::vector<float> values(identity.shape.elements(), 1.0f);
  constexpr int kMany = 60;  // what a node takes in one turn is 64
  std::vector<Handoff> handoffs(
      kMany, {.model = identity.model,
              .cut = identity.cut,
              .budget_us = 10'000'000,
              .tensor = encode_tensor({.data = values.data(), .batch = 1, .shape = identity.shape},
                                      {DType::kU8PerChannel, Codec::kLz4})});
  std::uint32_t bytes = 0;
  for (const Handoff& handoff : handoffs) REQUIRE(channel->submit(handoff, bytes));
  node->wait();
  // It is heard between two of them, and what has not been read by then is not taken any more.
  CHECK(node->counters().requests > 0);
  CHECK(node->counters().requests < kMany);
}

TEST_CASE("node: stopping under load loses nothing") {
  const SmallCascade cascade(Thresholds::kNone, 50);
  NodeOptions options = edge_options();
  options.stage_count = 2;
  options.workers = 2;
  options.before_compute = [] { std::this_thread::sleep_for(milliseconds(1)); };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  std::thread stopper([&] {
    wait_until_up([&] { return edge.counters().answers > 100; });
    edge.stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint(), 1), {});
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

TEST_CASE("node: when the time to stop is over, what the next tier still has is answered") {
  const SmallCascade cascade(Thresholds::kNone, 8);
  std::atomic<bool> hold{true};
  NodeOptions slow = cloud_options();
  slow.before_compute = [&] {
    while (hold) std::this_thread::sleep_for(milliseconds(1));
  };
  NodeOptions options = edge_options();
  options.drain = milliseconds(50);
  TwoNodes nodes(cascade, options, slow);
  std::thread stopper([&] {
    wait_until_up([&] { return nodes.edge->counters().forwarded == 8; });
    nodes.edge->stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint(), 1),
                {});
  const auto outcomes = run_all(device, cascade);
  stopper.join();
  hold = false;
  CHECK(count_reason(outcomes, Reason::kLate) == 8);
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    CHECK(outcomes[i].decision == cascade.at_exit(i, 1));
  CHECK(nodes.edge->counters().answers == 8);
  CHECK(nodes.edge->counters().unanswered == 0);
}

TEST_CASE("node: work that outlasts the time to stop is counted, and not waited for") {
  const SmallCascade cascade(Thresholds::kNone, 2);
  std::atomic<bool> hold{true};
  NodeOptions options = edge_options();
  options.drain = milliseconds(50);
  options.before_compute = [&] {
    while (hold) std::this_thread::sleep_for(milliseconds(1));
  };
  Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  std::thread stopper([&] {
    wait_until_up([&] { return edge.counters().requests == 2; });
    edge.stop();
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint(), 1), {});
  const auto outcomes = run_all(device, cascade);
  stopper.join();
  CHECK(count_reason(outcomes, Reason::kPeerLost) == 2);
  CHECK(edge.counters().unanswered == 2);
  hold = false;
}

TEST_CASE("node: an endpoint in use or without sense is an error that names it") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Node first(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
  for (const auto& [endpoint, kind] : {std::pair{first.endpoint(), ErrorKind::kUnavailable},
                                       {std::string("7001"), ErrorKind::kUsage},
                                       {std::string("tcp://:7001"), ErrorKind::kUsage},
                                       {std::string("inproc://x"), ErrorKind::kUsage},
                                       {std::string("tcp://127.0.0.1:"), ErrorKind::kUsage},
                                       {std::string("tcp://127.0.0.1:0"), ErrorKind::kUsage},
                                       {std::string("tcp://127.0.0.1:99999"), ErrorKind::kUsage}}) {
    NodeOptions options = edge_options();
    options.listen = endpoint;
    try {
      const Node second(cascade.stages(), cascade.id(), options, nullptr, {});
      FAIL("wanted an error, found none");
    } catch (const Error& error) {
      CHECK(error.kind() == kind);
      CHECK(std::string(error.what()).find(endpoint) != std::string::npos);
    }
  }
  CHECK_THROWS_AS(to(cascade, kAnyPort, 1), Error);
  CHECK_THROWS_AS(to(cascade, "nonsense", 1), Error);
}

}  // namespace offramp::test
