// An edge and its cloud, over real sockets and over loopback: the answers of the cascade bit for
// bit when all is well, an honest fallback when it is not. Devices are tested in device_test.cpp,
// stopping in drain_test.cpp.
#include "net/node.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "engine/error.h"
#include "net/device.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

// The decision of the stages, one after the other, with an encoder and a decoder between them.
Decision over_a_wire(const SmallCascade& cascade, std::size_t picture, const TensorFormat& format) {
  View input = cascade.picture(picture);
  std::vector<float> received;
  for (const Stage& stage : cascade.stages()) {
    StageMemory memory = stage.make_memory();
    const Stage::Outcome outcome = stage.step(input, memory);
    if (stage.answers(outcome.doubts[0])) return outcome.decisions[0];
    const WireTensor tensor = encode_tensor(outcome.carry, format);
    received.resize(outcome.carry.elements());
    REQUIRE(!decode_tensor(tensor, outcome.carry.shape, received));
    input = {.data = received.data(), .batch = 1, .shape = outcome.carry.shape};
  }
  return {};
}

// That, and each tier has answered what leaves at its exit.
void check_equal(const std::vector<Outcome>& outcomes, const SmallCascade& cascade) {
  check_whole(outcomes, cascade);
  for (const Outcome& outcome : outcomes)
    CHECK(static_cast<int>(outcome.tier) == outcome.decision.exit);
}

}  // namespace

TEST_CASE("node: sockets give the cascade's decisions bit for bit") {
  for (const Thresholds thresholds : {Thresholds::kNone, Thresholds::kMixed, Thresholds::kAll}) {
    const SmallCascade cascade(thresholds);
    TwoNodes nodes(cascade);
    Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint()),
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
      Device device(cascade.stages(), cascade.id(), patient, to(cascade, nodes.edge->endpoint()),
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
    Ear ear;
    Node edge(cascade.stages(), cascade.id(), {.tier = Tier::kEdge, .loopbacks = {&device_edge}},
              edge_cloud.connect(cascade.link(2)), ear.log());
    ear.await_next_tier();
    Device device(cascade.stages(), cascade.id(), kPatient, device_edge.connect(cascade.link()),
                  {});
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
  NodeOptions options = whole_edge();
  options.workers = 3;
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, node.endpoint()), {});
  check_whole(run_all(device, cascade), cascade);
  RawClient client(node.endpoint());
  const LinkIdentity third = cascade.link(2);
  client.send(Hello{.session = 1, .model = third.model, .cut = 2, .shape = third.shape});
  CHECK(client.wait_for<Welcome>().has_value());
}

TEST_CASE("node: an outcome accounts for bytes and times of every tier") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  TwoNodes nodes(cascade);
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, nodes.edge->endpoint()), {});
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

TEST_CASE("node: without its next tier the edge answers itself and says why") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  Node edge(cascade.stages(), cascade.id(), edge_options(), nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint()), {});
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
  NodeOptions edge_opts{.tier = Tier::kEdge, .loopbacks = {&to_edge}};
  const Node edge(cascade.stages(), cascade.id(), edge_opts, to_cloud.connect(cascade.link(2)), {});
  std::unique_ptr<Node> cloud;
  SUBCASE("the cloud comes") {
    // Once the first request has been undecided at the edge for a while.
    const std::jthread later = beside([&] {
      CHECK(eventually([&] { return edge.telemetry().load.away > 0; }));
      NodeOptions cloud_opts{.tier = Tier::kCloud, .loopbacks = {&to_cloud}, .first_stage = 2};
      cloud = start(cascade, cloud_opts);
    });
    Device device(cascade.stages(), cascade.id(), kPatient, to_edge.connect(cascade.link()), {});
    check_equal(run_all(device, cascade), cascade);
  }
  SUBCASE("it does not") {
    Device device(cascade.stages(), cascade.id(), kPatient, to_edge.connect(cascade.link()), {});
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
                to(cascade, nodes.edge->endpoint()), {});
  std::jthread closer = beside([&] {
    CHECK(eventually([&] { return nodes.edge->counters().answers > 200; }));
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
  nodes.cloud = start(cascade, options);
  nodes.ear.await_next_tier(2);
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == cascade.size());
}

TEST_CASE("node: a late cloud is not waited for beyond the deadline") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  std::atomic<bool> late{false};
  NodeOptions slow = cloud_options();
  slow.before_compute = [&] {
    if (late) std::this_thread::sleep_for(milliseconds(250));
  };
  TwoNodes nodes(cascade, edge_options(), slow);
  Device device(cascade.stages(), cascade.id(), {.deadline = milliseconds(120)},
                to(cascade, nodes.edge->endpoint()), {});
  connect(device, cascade);
  late = true;
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
  REQUIRE(eventually([&] { return told.load(); }));
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, edge.endpoint()), {});
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
  REQUIRE(eventually([&] {
    channel->service(Clock::now(), events);
    return channel->state() == LinkState::kUp;
  }));
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
  CHECK_THROWS_AS(to(cascade, kAnyPort), Error);
  CHECK_THROWS_AS(to(cascade, "nonsense"), Error);
}

}  // namespace offramp::test
