// Peers that do not keep to net/WIRE.md, in both directions, and an honest one that must not
// notice.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "net/device.h"
#include "net/node.h"
#include "net/tensor_codec.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

std::uint64_t dropped(const Node& node, Malformed reason) {
  return node.counters().malformed[static_cast<std::size_t>(reason)];
}

FaultCode fault_for(RawClient& client, Message message) {
  client.send(std::move(message));
  const std::optional<Fault> fault = client.wait_for<Fault>();
  REQUIRE(fault.has_value());
  return fault->code;
}

}  // namespace

TEST_CASE("hostile peer: garbage is dropped and counted, an honest device does not notice") {
  const SmallCascade cascade(Thresholds::kMixed, 50);
  Node node(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  std::jthread vandal = beside([&](const std::stop_token& stop) {
    std::mt19937 random(3);
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(std::make_unique<RawClient>(node.endpoint()));
    const Bytes huge(1 << 20, 7);
    while (!stop.stop_requested()) {
      RawClient& client = *clients[random() % clients.size()];
      Frames frames = encode(handoff_of(cascade, random()));
      for (int i = 0; i < 4; ++i)
        frames.header[random() % frames.header.size()] = static_cast<std::uint8_t>(random());
      client.send({frames.header, frames.payload});
      client.send({frames.header});
      client.send({frames.header, frames.payload, frames.payload});
      client.send(
          {std::span<const std::uint8_t>(frames.header).first(random() % 96), frames.payload});
      client.send({});
      // Above MAXMSGSIZE: ends this client's connection; a new one takes its place.
      if (random() % 20 == 0) {
        client.send({frames.header, huge});
        clients[random() % clients.size()] = std::make_unique<RawClient>(node.endpoint());
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, node.endpoint()), {});
  REQUIRE(eventually([&] {
    return dropped(node, Malformed::kTruncated) > 0 && dropped(node, Malformed::kFrameCount) > 0;
  }));
  const auto outcomes = run_all(device, cascade, 3000);
  vandal.request_stop();
  vandal.join();
  check_whole(outcomes, cascade);
}

TEST_CASE("hostile peer: who is refused again and again does not fill the log") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  Ear ear;
  Node node(cascade.stages(), cascade.id(), whole_edge(), nullptr, ear.log());
  RawClient client(node.endpoint());
  Hello hello = hello_of(cascade);
  hello.model[3] ^= 1;
  for (int i = 0; i < 200; ++i) CHECK(fault_for(client, hello) == FaultCode::kModelMismatch);
  const std::size_t told = ear.count("a peer was refused: ");
  CHECK(told >= 5);
  CHECK(told < 20);  // one more every ten seconds
}

TEST_CASE("hostile peer: each request that cannot be served is told why") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  Node node(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  RawClient client(node.endpoint());
  SUBCASE("before HELLO") {
    CHECK(fault_for(client, handoff_of(cascade, 1)) == FaultCode::kNoSession);
    CHECK(fault_for(client, Ping{.sequence = 1}) == FaultCode::kNoSession);
  }
  SUBCASE("HELLO with another model, cut or shape") {
    Hello hello = hello_of(cascade);
    hello.model[3] ^= 1;
    CHECK(fault_for(client, hello) == FaultCode::kModelMismatch);
    for (const int cut : {0, 3, 255}) {
      hello = hello_of(cascade);
      hello.cut = static_cast<std::uint8_t>(cut);
      CHECK(fault_for(client, hello) == FaultCode::kModelMismatch);
    }
    hello = hello_of(cascade);
    ++hello.shape.width;
    CHECK(fault_for(client, hello) == FaultCode::kModelMismatch);
  }
  SUBCASE("another major version") {
    Frames frames = encode(hello_of(cascade));
    frames.header[kMajorOffset] = 9;
    client.send({frames.header, frames.payload});
    const std::optional<Fault> fault = client.wait_for<Fault>();
    REQUIRE(fault.has_value());
    CHECK(fault->code == FaultCode::kVersion);
    CHECK(dropped(node, Malformed::kVersion) == 1);
  }
  SUBCASE("after HELLO") {
    join(client, cascade);
    client.send(handoff_of(cascade, 1));
    REQUIRE(client.wait_for<Verdict>().has_value());
    Handoff handoff = handoff_of(cascade, 2);
    handoff.model[0] ^= 1;
    CHECK(fault_for(client, handoff) == FaultCode::kModelMismatch);
    handoff = handoff_of(cascade, 3);
    handoff.cut = 2;
    CHECK(fault_for(client, handoff) == FaultCode::kModelMismatch);
    handoff = handoff_of(cascade, 4);
    handoff.tensor.payload.resize(handoff.tensor.payload.size() - 4);
    handoff.tensor.raw_bytes -= 4;
    CHECK(fault_for(client, handoff) == FaultCode::kBadTensor);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel}) {
      for (const Codec codec : {Codec::kRaw, Codec::kLz4}) {
        client.send(handoff_of(cascade, 20, 1.0f, {dtype, codec}));
        REQUIRE(client.wait_for<Verdict>().has_value());
        handoff = handoff_of(cascade, 21, 1.0f, {dtype, codec});
        // The first bytes are LZ4's first token, or those of a scale.
        handoff.tensor.payload[0] ^= 0xff;
        handoff.tensor.payload[3] ^= 0xff;
        if (codec == Codec::kLz4 || dtype == DType::kU8 || dtype == DType::kU8PerChannel)
          CHECK(fault_for(client, handoff) == FaultCode::kBadTensor);
        CHECK(fault_for(client, handoff_of(cascade, 22, std::nanf(""), {dtype, codec})) ==
              FaultCode::kBadTensor);
      }
    }
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      CHECK(fault_for(client, handoff_of(cascade, 5, bad)) == FaultCode::kBadTensor);
    // Finite, yet large enough to make the logits infinite.
    CHECK(fault_for(client, handoff_of(cascade, 6, std::numeric_limits<float>::max())) ==
          FaultCode::kNoAnswer);
    client.send(Bye{});
    CHECK(fault_for(client, handoff_of(cascade, 7)) == FaultCode::kNoSession);
  }
  SUBCASE("messages that only a node sends") {
    client.send(Drain{});
    join(client, cascade);
    CHECK(dropped(node, Malformed::kType) == 1);
  }
}

TEST_CASE("hostile peer: a packed tensor that is a bomb is told so, or dropped before it is read") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  Node node(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  RawClient client(node.endpoint());
  join(client, cascade);
  Handoff bomb = handoff_of(cascade, 1);
  const std::uint32_t right = bomb.tensor.raw_bytes;
  bomb.tensor.codec = Codec::kLz4;
  // A match from one byte back, hundreds of kilobytes long.
  bomb.tensor.payload.assign(right - 1, 0xff);
  const std::uint8_t start[] = {0x1f, 0x00, 0x01, 0x00};
  std::ranges::copy(start, bomb.tensor.payload.begin());
  CHECK(fault_for(client, bomb) == FaultCode::kBadTensor);
  bomb.tensor.raw_bytes = right + 1;
  client.send(bomb);
  bomb.tensor.raw_bytes = 0xffffffff;
  client.send(bomb);
  client.send(handoff_of(cascade, 2));
  const std::optional<Verdict> verdict = client.wait_for<Verdict>();
  REQUIRE(verdict.has_value());
  CHECK(verdict->request == make_request_id(1, 2));
  CHECK(dropped(node, Malformed::kPayload) == 2);
}

TEST_CASE("hostile peer: a full queue and expired work are told, and the queue is bounded") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  HeldWork work;
  NodeOptions options = whole_edge();
  options.queue_capacity = 3;
  options.before_compute = [&] { work.wait(); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  RawClient client(node.endpoint());
  join(client, cascade);
  client.send(handoff_of(cascade, 0));
  REQUIRE(eventually([&] { return work.taken.load(); }));  // so the queue is empty again
  Handoff brief = handoff_of(cascade, 1);
  brief.budget_us = 1'500'000;
  client.send(brief);
  for (std::uint64_t i = 2; i <= 5; ++i) client.send(handoff_of(cascade, i));
  for (const std::uint64_t refused : {4u, 5u}) {
    const std::optional<Fault> fault = client.wait_for<Fault>();
    REQUIRE(fault.has_value());
    CHECK(fault->code == FaultCode::kOverloaded);
    CHECK(fault->request == make_request_id(1, refused));
  }
  std::this_thread::sleep_for(milliseconds(1600));  // the brief one's budget has run out
  work.hold = false;
  REQUIRE(client.wait_for<Verdict>().has_value());
  const std::optional<Fault> expired = client.wait_for<Fault>();
  REQUIRE(expired.has_value());
  CHECK(expired->code == FaultCode::kExpired);
  CHECK(expired->request == brief.request);
  CHECK(client.wait_for<Verdict>().has_value());
  CHECK(client.wait_for<Verdict>().has_value());
  CHECK(node.counters().expired == 1);
  CHECK(node.counters().answers == 3);
}

TEST_CASE("hostile peer: when there is no room, a tensor is not even looked at") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  HeldWork work;
  NodeOptions options = whole_edge();
  options.queue_capacity = 1;
  options.before_compute = [&] { work.wait(); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  RawClient client(node.endpoint());
  join(client, cascade);
  client.send(handoff_of(cascade, 0));
  REQUIRE(eventually([&] { return work.taken.load(); }));
  CHECK(fault_for(client, handoff_of(cascade, 1, std::nanf(""))) == FaultCode::kBadTensor);
  client.send(handoff_of(cascade, 2));  // fills the queue
  CHECK(fault_for(client, handoff_of(cascade, 3, std::nanf(""))) == FaultCode::kOverloaded);
  work.hold = false;
  CHECK(client.wait_for<Verdict>().has_value());
  CHECK(client.wait_for<Verdict>().has_value());
}

TEST_CASE("hostile peer: who does not keep to its window leaves the others theirs") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  HeldWork work;
  NodeOptions options = whole_edge();
  options.window = 2;
  options.workers = 2;  // one is there to say WELCOME
  std::atomic<int> running{0};
  options.before_compute = [&] {
    if (++running == 1) work.wait();
  };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  RawClient greedy(node.endpoint()), modest(node.endpoint());
  for (RawClient* client : {&greedy, &modest}) CHECK(join(*client, cascade) == 2);
  greedy.send(handoff_of(cascade, 0));
  REQUIRE(eventually([&] { return running > 0; }));
  // Each that is answered makes room for one more.
  for (std::uint64_t i = 1; i < 20; ++i) {
    greedy.send(handoff_of(cascade, i));
    const std::optional<Verdict> verdict = greedy.wait_for<Verdict>();
    REQUIRE(verdict.has_value());
    CHECK(verdict->request == make_request_id(1, i));
  }
  running = 0;
  greedy.send(handoff_of(cascade, 20));
  REQUIRE(eventually([&] { return running > 0; }));
  const std::optional<Message> refused = [&] {
    greedy.send(handoff_of(cascade, 21));
    return greedy.receive();
  }();
  const Fault* const why = refused ? std::get_if<Fault>(&*refused) : nullptr;
  CHECK(why != nullptr);
  if (why != nullptr) {
    CHECK(why->code == FaultCode::kOverloaded);
    CHECK(why->request == make_request_id(1, 21));
  }
  CHECK(node.counters().requests == 21);
  modest.send(handoff_of(cascade, 1));
  CHECK(eventually([&] { return node.counters().requests == 22; }));
  work.hold = false;
  for (int i = 0; i < 2; ++i) CHECK(greedy.wait_for<Verdict>().has_value());
  CHECK(modest.wait_for<Verdict>().has_value());
}

TEST_CASE("hostile peer: a node that repeats, invents and garbles answers") {
  const SmallCascade cascade(Thresholds::kNone, 30);
  const FakeNode fake(
      [](const Message& message, const Bytes& header, const FakeNode::Caller& caller) {
        if (const auto* hello = std::get_if<Hello>(&message)) {
          caller.reply(Welcome{.session = hello->session ^ 1,
                               .model = {},
                               .cut = 0,
                               .shape = hello->shape,
                               .tier = Tier::kCloud,
                               .window = 9});
          caller.reply(welcome_to(*hello, 4));
        } else if (const auto* handoff = std::get_if<Handoff>(&message)) {
          Verdict verdict{.request = make_request_id(99, 99),
                          .decision = {.label = 6, .probability = 1, .entropy = 0, .exit = 2},
                          .tier = Tier::kCloud,
                          .degraded = Reason::kNone};
          caller.reply(verdict);
          Verdict out_of_range = verdict;
          out_of_range.request = handoff->request;
          out_of_range.decision.label = 7;
          caller.reply(out_of_range);
          caller.router.send({caller.id, header, {}});
          caller.router.send({caller.id, header});
          verdict.request = handoff->request;
          caller.reply(verdict);
          verdict.decision.label = 5;
          caller.reply(verdict);
          caller.reply(Fault{.request = handoff->request, .code = FaultCode::kOverloaded});
        }
      });
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, fake.endpoint()), {});
  const auto outcomes = run_all(device, cascade);
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.decision.label == 6);
    CHECK(outcome.degraded == Reason::kNone);
    CHECK(outcome.total_us < 5'000'000);
  }
  CHECK(device.late_answers() >= 2 * (outcomes.size() - 1));
}

}  // namespace offramp::test
