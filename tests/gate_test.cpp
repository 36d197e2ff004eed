// Who gets into a node and who does not, over real sockets. Floods are in gate_flood_test.cpp.
#include "net/gate.h"

#include <doctest/doctest.h>
#include <zmq.h>

#include <cstdio>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "engine/error.h"
#include "net/device.h"
#include "net/fronts.h"
#include "net/node.h"
#include "tests/test_files.h"
#include "tests/test_keys.h"
#include "tests/test_nodes.h"
#include "tests/test_process.h"
#include "tests/test_strangers.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Thresholds = SmallCascade::Thresholds;

// Where no answer is to come.
constexpr DeviceOptions kBrief{.deadline = milliseconds(400), .connect_grace = milliseconds(300)};

// Someone who is not to get in, and how it is told.
struct Intruder {
  std::optional<LinkKeys> keys;
  Role role;
  Denial denial;
  std::string node_says, device_says;

  // Where one side has keys and the other none, both notice; whoever does so first hangs up, and
  // the other one sees a handshake that broke off.
  std::uint64_t denied_in(const DenialCounts& counts) const {
    return denied(counts, denial) +
           (denial == Denial::kNoKeys ? denied(counts, Denial::kHandshake) : 0);
  }
};

std::vector<Intruder> intruders(const Keyring& ring) {
  const std::string device = fingerprint(ring.device.own.text());
  return {
      {.keys = {},
       .role = Role::kDevice,
       .denial = Denial::kNoKeys,
       .node_says = "a peer without keys",
       .device_says = "wanted a node without keys, found one that ends the handshake"},
      {.keys = LinkKeys{.own = ring.device, .server = ring.stranger.own},
       .role = Role::kDevice,
       .denial = Denial::kServerKey,
       .node_says = "knows this node's public key, found one with another",
       .device_says = "wanted a node with the key " + fingerprint(ring.stranger.own.text())},
      {.keys = LinkKeys{.own = ring.stranger, .server = ring.edge.own},
       .role = Role::kDevice,
       .denial = Denial::kUnknownKey,
       .node_says = "from 127.0.0.1: wanted a key of the allow-list, found an unknown one, key " +
                    fingerprint(ring.stranger.own.text()),
       .device_says = "does not have our key " + fingerprint(ring.stranger.own.text())},
      {.keys = ring.device_keys(),
       .role = Role::kEdge,
       .denial = Denial::kRole,
       .node_says = "wanted the role device or any, found edge, key " + device + "... (camera)",
       .device_says = "does not have our key " + device},
      {.keys = ring.device_keys(),
       .role = Role::kCloud,
       .denial = Denial::kRole,
       .node_says = "wanted the role device or any, found cloud",
       .device_says = "or not for this tier"}};
}

}  // namespace

TEST_CASE("gate: a device that is allowed gets the cascade's answers") {
  const SmallCascade cascade(Thresholds::kMixed);
  const Keyring ring;
  for (const Role role : {Role::kDevice, Role::kAny}) {
    Ear node_ear, device_ear;
    Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys(role)), nullptr,
              node_ear.log());
    Device device(cascade.stages(), cascade.id(), kPatient,
                  to(cascade, node.endpoint(), 1, with_keys(ring.device_keys())), device_ear.log());
    check_whole(run_all(device, cascade), cascade);
    CHECK(node.counters().denied == DenialCounts{});
    CHECK_FALSE(node_ear.heard("refused"));
  }
}

TEST_CASE(
    "gate: who is not allowed is told of on both sides, and the device answers alone in time") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  const Keyring ring;
  for (const Intruder& intruder : intruders(ring)) {
    CAPTURE(intruder.node_says);
    Ear node_ear, device_ear;
    Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys(intruder.role)), nullptr,
              node_ear.log());
    ZmqChannelOptions options;
    options.keys = intruder.keys;
    Device device(cascade.stages(), cascade.id(), kBrief, to(cascade, node.endpoint(), 1, options),
                  device_ear.log());
    const auto outcomes = run_all(device, cascade);
    CHECK(count_reason(outcomes, Reason::kDisconnected) == outcomes.size());
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      CHECK(outcomes[i].decision == cascade.at_exit(i, 0));
      CHECK(outcomes[i].total_us < 400'000 + kSlackUs);
    }
    CHECK(eventually([&] { return intruder.denied_in(node.counters().denied) > 0; }));
    CHECK(eventually([&] { return node_ear.heard(intruder.node_says); }));
    CHECK(node.counters().requests == 0);
    CHECK(node.counters().answers == 0);
    CHECK(node.counters().faults == 0);
    CAPTURE(device_ear.all());
    CHECK(device_ear.count(intruder.device_says) == 1);
    CHECK(device_ear.heard(node.endpoint()));
    CAPTURE(node_ear.all());
    for (const KeyPair& pair : {ring.edge, ring.device, ring.stranger})
      CHECK_FALSE(node_ear.heard(pair.own.text()));
  }
}

TEST_CASE("gate: of those who are not allowed, no message is delivered") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Keyring ring;
  for (const Intruder& intruder : intruders(ring)) {
    CAPTURE(intruder.node_says);
    Door door(ring.edge_keys(intruder.role), {});
    Knocker knocker(door.endpoint, intruder.keys);
    for (int i = 0; i < 20; ++i) knocker.send(hello_of(cascade));
    CHECK(eventually([&] { return intruder.denied_in(door.denials()) > 0; }));
    std::this_thread::sleep_for(milliseconds(100));
    CHECK(door.messages == 0);
  }
  Door door(ring.edge_keys(), {});
  Knocker welcome(door.endpoint, ring.device_keys());
  for (int i = 0; i < 20; ++i) welcome.send(hello_of(cascade));
  CHECK(eventually([&] { return door.messages == 20; }));
}

TEST_CASE("gate: an empty list lets nobody in, a node without keys everybody") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Keyring ring;
  Door shut(NodeKeys{.own = ring.edge, .allowed = {}}, {});
  Knocker device(shut.endpoint, ring.device_keys());
  device.send(hello_of(cascade));
  CHECK(eventually([&] { return denied(shut.denials(), Denial::kUnknownKey) > 0; }));
  CHECK(shut.messages == 0);
  Ear ear;
  Door open({}, ear.log());
  Knocker anybody(open.endpoint, {});
  anybody.send(hello_of(cascade));
  CHECK(eventually([&] { return open.messages == 1; }));
  Knocker with_lock(open.endpoint, ring.device_keys());
  CHECK(eventually([&] { return ear.heard("a peer with keys"); }));
}

TEST_CASE("gate: a new list lets keys in and shuts keys out, those inside too") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  const Keyring ring;
  Ear node_ear;
  Node node(cascade.stages(), cascade.id(), locked({.own = ring.edge, .allowed = {}}), nullptr,
            node_ear.log());
  Device device(cascade.stages(), cascade.id(), kPatient,
                to(cascade, node.endpoint(), 1, with_keys(ring.device_keys())), {});
  std::jthread keeper = beside([&] {
    CHECK(eventually([&] { return denied(node, Denial::kUnknownKey) > 0; }));
    node.allow(ring.edge_keys().allowed);
  });
  const auto later = run_all(device, cascade);
  keeper.join();
  CHECK(denied(node, Denial::kUnknownKey) > 0);
  CHECK(count_reason(later, Reason::kNone) == later.size());

  const std::uint64_t before = node.counters().requests;
  node.allow(ring.edge_keys(Role::kEdge).allowed);
  Device brief(cascade.stages(), cascade.id(), kBrief,
               to(cascade, node.endpoint(), 1, with_keys(ring.device_keys())), {});
  const auto outside = run_all(brief, cascade);
  CHECK(count_reason(outside, Reason::kDisconnected) == outside.size());
  CHECK(eventually([&] { return denied(node, Denial::kRole) > 0; }));
  // The first device is still connected; what it says is not heard.
  std::vector<Outcome> inside(1);
  device.run(1, cascade.source(),
             [&](std::size_t, const Outcome& outcome) { inside[0] = outcome; });
  CHECK(inside[0].degraded != Reason::kNone);
  CHECK(inside[0].tier == Tier::kDevice);
  CHECK(denied(node, Denial::kWithdrawn) > 0);
  CHECK(node_ear.heard("taken off it, key " + fingerprint(ring.device.own.text())));
  CHECK(node.counters().requests == before);
}

TEST_CASE("gate: an answer is not sent to a key that has lost its place meanwhile") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Keyring ring;
  HeldWork work;
  NodeOptions options = locked(ring.edge_keys());
  options.before_compute = [&] { work.wait(); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Knocker device(node.endpoint(), ring.device_keys());
  device.send(hello_of(cascade));
  REQUIRE(device.receives(seconds(20)));  // WELCOME
  device.send(handoff_of(cascade, 1));
  REQUIRE(eventually([&] { return node.counters().requests == 1; }));
  bool stays = false;
  SUBCASE("its place is lost") { node.allow({}); }
  SUBCASE("its place is kept") {
    node.allow(ring.edge_keys().allowed);
    stays = true;
  }
  work.hold = false;
  REQUIRE(eventually([&] { return node.counters().answers == 1; }));
  CHECK(device.receives(milliseconds(stays ? 20000 : 200)) == stays);
  CHECK((node.counters().undeliverable == 0) == stays);
}

TEST_CASE("gate: nobody takes the place of another by choosing its routing id") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Keyring ring;
  HeldWork work;
  NodeKeys keys = ring.edge_keys();
  keys.allowed.add(ring.stranger.own, {.role = Role::kDevice});
  NodeOptions options = locked(keys);
  options.before_compute = [&] { work.wait(); };
  Ear ear;
  Node node(cascade.stages(), cascade.id(), options, nullptr, ear.log());
  {
    Knocker first(node.endpoint(), ring.device_keys(), "camera");
    first.send(hello_of(cascade));
    first.send(handoff_of(cascade, 1));
    CHECK_FALSE(first.receives(milliseconds(300)));
    CHECK(denied(node, Denial::kRoutingId) >= 2);
  }
  // With the first one's name it would get the first one's answer.
  Knocker second(node.endpoint(), LinkKeys{.own = ring.stranger, .server = ring.edge.own},
                 "camera");
  std::this_thread::sleep_for(milliseconds(200));
  work.hold = false;
  CHECK_FALSE(second.receives(milliseconds(300)));
  CHECK(node.counters().requests == 0);
  CHECK(ear.heard("routing id"));
}

TEST_CASE("gate: plaintext does not leave the machine") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  const Keyring ring;
  for (const char* listen : {"tcp://0.0.0.0:*", "tcp://[::]:*", "tcp://*:*", "tcp://eth0:*"}) {
    CAPTURE(listen);
    NodeOptions options;
    options.listen = listen;
    const Error error = testing::error_of(
        [&] { const Node node(cascade.stages(), cascade.id(), options, nullptr, {}); });
    CHECK(error.kind() == ErrorKind::kUsage);
    CHECK(std::string(error.what()).find(listen) != std::string::npos);
  }
  CHECK(is_local("tcp://127.0.0.1:*"));
  CHECK(is_local("tcp://127.8.9.1:5555"));
  CHECK(is_local("tcp://[::1]:5555"));
  CHECK(is_local("ipc:///run/edge"));
  for (const char* endpoint :
       {"tcp://128.0.0.1:1", "tcp://[::2]:1", "tcp://127.1:1", "tcp://localhost.example:1",
        "tcp://[::ffff:10.0.0.1]:1", "inproc://x", "tcp://:1"})
    CHECK_FALSE(is_local(endpoint));
  Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys(), "tcp://0.0.0.0:*"), nullptr,
            {});
  const std::string port = node.endpoint().substr(node.endpoint().rfind(':'));
  Device device(cascade.stages(), cascade.id(), kPatient,
                to(cascade, "tcp://127.0.0.1" + port, 1, with_keys(ring.device_keys())), {});
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == 5);
}

TEST_CASE("gate: a path needs no keys") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  const Keyring ring;
  const testing::TempDir folder;
  const std::string endpoint = "ipc://" + (folder.path() / "edge").string();
  // Whatever keys one side has: both leave them out.
  Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys(), endpoint), nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, to(cascade, endpoint), {});
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == 5);
  Device keyed(cascade.stages(), cascade.id(), kPatient,
               to(cascade, endpoint, 1, with_keys(ring.device_keys())), {});
  CHECK(count_reason(run_all(keyed, cascade), Reason::kNone) == 5);
}

TEST_CASE("gate: without keys, whose key a peer claims to have counts for nothing") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  Gate gate(Tier::kEdge, {}, {});
  Fronts fronts("tcp://127.0.0.1:*", {}, {.max_payload_bytes = 1 << 20}, 64, gate);
  const RawSocket raw(fronts.endpoint());
  raw.send(greeting("NULL"));
  Bytes ready = {5, 'R', 'E', 'A', 'D', 'Y'};
  add_property(ready, "Socket-Type", "DEALER");
  add_property(ready, "User-Id", "somebody");
  raw.send(zmtp_frame(0x04, ready));
  raw.await_more_than(greeting("NULL").size());  // the other side is ready too
  const Frames hello = encode(hello_of(cascade));
  raw.send(zmtp_frame(0x01, hello.header));
  raw.send(zmtp_frame(0x00, {}));
  std::optional<Fronts::Received> received;
  REQUIRE(eventually([&] { return (received = fronts.receive(Clock::now())).has_value(); }));
  CHECK(std::holds_alternative<Message>(received->second));
  CHECK(received->first.key.empty());
}

TEST_CASE("first routing id of a process" * doctest::skip()) {
  ZmqContext context;
  ZmqSocket router(context, ZMQ_ROUTER), dealer(context, ZMQ_DEALER);
  REQUIRE(zmq_connect(dealer.get(), bound(router).c_str()) == 0);
  const std::uint8_t word = 1;
  REQUIRE(dealer.send({std::span(&word, 1)}));
  std::vector<Bytes> parts;
  std::size_t count = 0;
  REQUIRE(eventually([&] { return router.receive(parts, 2, count); }));
  std::printf("routing id");
  for (const std::uint8_t byte : parts[0]) std::printf(" %d", byte);
  std::printf(".\n");
}

TEST_CASE("gate: routing ids begin with another one in each process") {
  std::set<std::string> all;
  for (int i = 0; i < 3; ++i) {
    testing::Process process(
        {"/proc/self/exe", "--no-intro", "--no-skip", "--test-case=first routing id of a process"});
    const std::string out = process.finish().out;
    const std::size_t begin = out.find("routing id 0 ");
    REQUIRE(begin != std::string::npos);
    all.insert(out.substr(begin, out.find('.', begin) - begin));
  }
  CHECK(all.size() == 3);
}

}  // namespace offramp::test
