// Who gets into a node and who does not, over real sockets.
#include "net/gate.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "engine/error.h"
#include "net/device.h"
#include "net/fronts.h"
#include "net/node.h"
#include "net/tensor_codec.h"
#include "net/zmq_channel.h"
#include "tests/test_files.h"
#include "tests/test_keys.h"
#include "tests/test_nodes.h"
#include "tests/test_process.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

// How late a busy test machine may wake a thread.
constexpr std::uint64_t kSlackUs = 80'000;

// Where every answer is to come, however busy the machine.
constexpr DeviceOptions kPatient{.deadline = milliseconds(20000),
                                 .connect_grace = milliseconds(10000)};
// Where none is to come.
constexpr DeviceOptions kBrief{.deadline = milliseconds(400), .connect_grace = milliseconds(300)};

NodeOptions locked(NodeKeys keys, const std::string& listen = "tcp://127.0.0.1:*") {
  NodeOptions options;
  options.listen = listen;
  options.keys.emplace(std::move(keys));
  options.stage_count = 2;
  return options;
}

std::unique_ptr<Channel> connect(const SmallCascade& cascade, const std::string& endpoint,
                                 const ZmqChannelOptions& options = {}) {
  return connect_zmq(endpoint, link_identity(cascade.stages(), cascade.id(), 1), options);
}

std::uint64_t denied(const DenialCounts& counts, Denial reason) {
  return counts[static_cast<std::size_t>(reason)];
}
std::uint64_t denied(const Node& node, Denial reason) {
  return denied(node.counters().denied, reason);
}

// Binds it to a free port.
std::string bound(ZmqSocket& socket) {
  REQUIRE(zmq_bind(socket.get(), "tcp://127.0.0.1:*") == 0);
  char text[64];
  std::size_t size = sizeof text;
  REQUIRE(zmq_getsockopt(socket.get(), ZMQ_LAST_ENDPOINT, text, &size) == 0);
  return text;
}

// A socket behind a gate that counts what gets in.
class Door {
 public:
  explicit Door(std::optional<NodeKeys> keys, Log log)
      : gate_(Tier::kEdge, std::move(keys), std::move(log)) {
    gate_.open(context_);
    router_.emplace(context_, ZMQ_ROUTER);
    set_link_options(*router_, 1 << 20, 64);
    router_->set(ZMQ_LINGER, 0);
    gate_.guard(context_, *router_);
    endpoint = bound(*router_);
    thread_ = std::thread([this] { loop(); });
  }
  ~Door() {
    stop_ = true;
    thread_.join();
    gate_.close();
  }

  DenialCounts denials() const { return gate_.denials(); }

  std::string endpoint;
  std::atomic<int> messages{0};

 private:
  void loop() {
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (!stop_) {
      std::vector<Waitable> items{{.socket = router_->get()}};
      gate_.waitables(items);
      wait_readable(items, Clock::now() + milliseconds(5));
      gate_.serve(Clock::now());
      while (router_->receive(parts, 3, count)) ++messages;
    }
  }

  ZmqContext context_;
  Gate gate_;
  std::optional<ZmqSocket> router_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// A DEALER that queues messages whether it is let in or not.
class Knocker {
 public:
  Knocker(const std::string& endpoint, const std::optional<LinkKeys>& keys,
          const std::string& routing_id = {})
      : socket_(context_, ZMQ_DEALER) {
    socket_.set(ZMQ_LINGER, 0);
    if (keys) {
      socket_.set(ZMQ_CURVE_SERVERKEY, keys->server.bytes());
      socket_.set(ZMQ_CURVE_PUBLICKEY, keys->own.own.bytes());
      socket_.set(ZMQ_CURVE_SECRETKEY, keys->own.secret.bytes());
    }
    if (!routing_id.empty())
      REQUIRE(zmq_setsockopt(socket_.get(), ZMQ_ROUTING_ID, routing_id.data(), routing_id.size()) ==
              0);
    REQUIRE(zmq_connect(socket_.get(), endpoint.c_str()) == 0);
  }
  void send(Message message) {
    const Frames frames = encode(std::move(message));
    socket_.send({frames.header, frames.payload});
  }
  bool receives(milliseconds patience) {
    std::vector<Bytes> parts;
    std::size_t count = 0;
    return eventually([&] { return socket_.receive(parts, 2, count); }, patience);
  }

 private:
  ZmqContext context_;
  ZmqSocket socket_;
};

// A plain TCP connection, for what no ZeroMQ client would send.
class RawSocket {
 public:
  explicit RawSocket(const std::string& endpoint) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawSocket() { close(fd_); }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  bool connected() const { return connected_; }
  void send(const Bytes& bytes) const {
    static_cast<void>(!::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }
  // Reads until more than `count` bytes have come.
  void await_more_than(std::size_t count) const {
    char block[256];
    for (std::size_t sum = 0; sum <= count;) {
      const ssize_t got = recv(fd_, block, sizeof block, 0);
      REQUIRE(got > 0);
      sum += static_cast<std::size_t>(got);
    }
  }
  bool ended_by_peer(milliseconds patience) const {
    const timeval limit{.tv_sec = patience.count() / 1000, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char block[256];
    ssize_t got = 1;
    while (got > 0) got = recv(fd_, block, sizeof block, 0);
    return got == 0 || errno == ECONNRESET;
  }

 private:
  int fd_;
  bool connected_ = false;
};

// ZMTP's greeting of a client with this mechanism.
Bytes greeting(const std::string& mechanism) {
  Bytes bytes(64, 0);
  bytes[0] = 0xff;
  bytes[9] = 0x7f;
  bytes[10] = 3;
  std::ranges::copy(mechanism, bytes.begin() + 12);
  return bytes;
}

// A frame of ZMTP: 0x04 a command, 0x01 a part of a message, 0x00 its last part.
Bytes zmtp_frame(std::uint8_t flags, const Bytes& body) {
  REQUIRE(body.size() < 256);
  Bytes bytes(2 + body.size());
  bytes[0] = flags;
  bytes[1] = static_cast<std::uint8_t>(body.size());
  std::ranges::copy(body, bytes.begin() + 2);
  return bytes;
}

void add_property(Bytes& command, const std::string& name, const std::string& value) {
  command.push_back(static_cast<std::uint8_t>(name.size()));
  command.insert(command.end(), name.begin(), name.end());
  command.insert(command.end(), {0, 0, 0, static_cast<std::uint8_t>(value.size())});
  command.insert(command.end(), value.begin(), value.end());
}

// CURVE's HELLO with this short-term key and a box of noise.
Bytes curve_hello(const Bytes& key) {
  const Bytes begin = {0x04, 200, 5, 'H', 'E', 'L', 'L', 'O', 1, 0};
  Bytes bytes(202, 0xa5);
  std::ranges::copy(begin, bytes.begin());
  std::fill_n(bytes.begin() + 10, 72, std::uint8_t{0});
  std::ranges::copy(key, bytes.begin() + 82);
  return bytes;
}

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
                  connect(cascade, node.endpoint(), with_keys(ring.device_keys())),
                  device_ear.log());
    const auto outcomes = run_all(device, cascade);
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      CHECK(outcomes[i].decision == cascade.expected()[i]);
      CHECK(outcomes[i].degraded == Reason::kNone);
    }
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
    Device device(cascade.stages(), cascade.id(), kBrief,
                  connect(cascade, node.endpoint(), options), device_ear.log());
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
  Device device(cascade.stages(), cascade.id(),
                {.deadline = milliseconds(20000), .connect_grace = milliseconds(20000)},
                connect(cascade, node.endpoint(), with_keys(ring.device_keys())), {});
  std::thread keeper([&] {
    eventually([&] { return denied(node, Denial::kUnknownKey) > 0; });
    node.allow(ring.edge_keys().allowed);
  });
  const auto later = run_all(device, cascade);
  keeper.join();
  CHECK(denied(node, Denial::kUnknownKey) > 0);
  CHECK(count_reason(later, Reason::kNone) == later.size());

  const std::uint64_t before = node.counters().requests;
  node.allow(ring.edge_keys(Role::kEdge).allowed);
  Device brief(cascade.stages(), cascade.id(), kBrief,
               connect(cascade, node.endpoint(), with_keys(ring.device_keys())), {});
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
  std::atomic<bool> hold{true};
  NodeOptions options = locked(ring.edge_keys());
  options.before_compute = [&] {
    while (hold) std::this_thread::sleep_for(milliseconds(1));
  };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Knocker device(node.endpoint(), ring.device_keys());
  device.send(hello_of(cascade));
  REQUIRE(device.receives(std::chrono::seconds(20)));  // WELCOME
  device.send(handoff_of(cascade, 1));
  REQUIRE(eventually([&] { return node.counters().requests == 1; }));
  bool stays = false;
  SUBCASE("its place is lost") { node.allow({}); }
  SUBCASE("its place is kept") {
    node.allow(ring.edge_keys().allowed);
    stays = true;
  }
  hold = false;
  REQUIRE(eventually([&] { return node.counters().answers == 1; }));
  CHECK(device.receives(milliseconds(stays ? 20000 : 200)) == stays);
  CHECK((node.counters().undeliverable == 0) == stays);
}

TEST_CASE("gate: nobody takes the place of another by choosing its routing id") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  const Keyring ring;
  std::atomic<bool> hold{true};
  NodeKeys keys = ring.edge_keys();
  keys.allowed.add(ring.stranger.own, {.role = Role::kDevice});
  NodeOptions options = locked(keys);
  options.before_compute = [&] {
    while (hold) std::this_thread::sleep_for(milliseconds(1));
  };
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
  hold = false;
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
                connect(cascade, "tcp://127.0.0.1" + port, with_keys(ring.device_keys())), {});
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == 5);
}

TEST_CASE("gate: a path needs no keys") {
  const SmallCascade cascade(Thresholds::kNone, 5);
  const Keyring ring;
  const testing::TempDir folder;
  const std::string endpoint = "ipc://" + (folder.path() / "edge").string();
  // Whatever keys one side has: both leave them out.
  Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys(), endpoint), nullptr, {});
  Device device(cascade.stages(), cascade.id(), kPatient, connect(cascade, endpoint), {});
  CHECK(count_reason(run_all(device, cascade), Reason::kNone) == 5);
  Device keyed(cascade.stages(), cascade.id(), kPatient,
               connect(cascade, endpoint, with_keys(ring.device_keys())), {});
  CHECK(count_reason(run_all(keyed, cascade), Reason::kNone) == 5);
}

TEST_CASE("gate: floods of strangers and of garbage, and an honest device that does not notice") {
  const SmallCascade cascade(Thresholds::kMixed, 50);
  const Keyring ring;
  Ear ear, device_ear;
  Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys()), nullptr, ear.log());
  std::atomic<bool> stop{false};
  std::atomic<int> knocks{0};
  // Keys that nobody knows: each asks the gate, is refused and comes again with another.
  std::thread strangers([&] {
    std::vector<std::unique_ptr<Knocker>> all(8);
    for (std::size_t i = 0; !stop; ++i) {
      const Denial last = i % 3 == 0 ? Denial::kNoKeys : Denial::kUnknownKey;
      std::optional<LinkKeys> keys;
      if (last == Denial::kUnknownKey)
        keys = LinkKeys{.own = make_key_pair(),
                        .server = i % 3 == 1 ? ring.edge.own : ring.stranger.own};
      all[i % all.size()] = std::make_unique<Knocker>(node.endpoint(), keys);
      all[i % all.size()]->send(hello_of(cascade));
      ++knocks;
      std::this_thread::sleep_for(milliseconds(3));
    }
  });
  std::thread vandal([&] {
    std::mt19937 random(5);
    std::vector<std::unique_ptr<RawSocket>> open(64);
    while (!stop) {
      auto& raw = open[random() % open.size()];
      raw = std::make_unique<RawSocket>(node.endpoint());
      Bytes noise(random() % 2000);
      for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random());
      Bytes key(kKeyBytes, 0);  // a point of low order
      if (random() % 2 == 0)
        for (std::uint8_t& byte : key) byte = static_cast<std::uint8_t>(random());
      switch (random() % 5) {
        case 0:
          raw->send(noise);
          break;
        case 1:
          raw->send(greeting("CURVE"));
          raw->send(noise);
          break;
        case 2:
          raw->send(greeting("CURVE"));
          raw->send(curve_hello(key));
          break;
        case 3:
          raw->send(greeting("NULL"));
          raw->send(noise);
          break;
        default:
          break;  // silence
      }
      ++knocks;
      std::this_thread::sleep_for(milliseconds(3));
    }
  });
  Device device(cascade.stages(), cascade.id(), kPatient,
                connect(cascade, node.endpoint(), with_keys(ring.device_keys())), device_ear.log());
  CHECK(eventually([&] {
    return denied(node, Denial::kUnknownKey) > 20 && denied(node, Denial::kNoKeys) > 20 &&
           denied(node, Denial::kServerKey) > 20 && denied(node, Denial::kHandshake) > 0;
  }));
  const auto outcomes = run_all(device, cascade, 1000);
  stop = true;
  strangers.join();
  vandal.join();
  CAPTURE(device_ear.all());
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CAPTURE(i);
    REQUIRE(std::string(reason_name(outcomes[i].degraded)) == "ok");
    REQUIRE(outcomes[i].decision == cascade.expected()[i % cascade.size()]);
  }
  const NodeCounters counters = node.counters();
  for (const std::uint64_t malformed : counters.malformed) CHECK(malformed == 0);
  // Read by people: five lines of each reason at first, and one every ten seconds.
  std::uint64_t turned_away = 0;
  for (const std::uint64_t count : counters.denied) turned_away += count;
  CHECK(turned_away > 100);
  CHECK(ear.count("refused a connection") <= 5 * kDenialCount + 20);
}

TEST_CASE("gate: bytes that are no handshake end with the connection, and are counted") {
  const Keyring ring;
  Ear ear;
  Door door(ring.edge_keys(), ear.log());
  const Bytes zero(kKeyBytes, 0);
  const RawSocket hello(door.endpoint);
  REQUIRE(hello.connected());
  hello.send(greeting("CURVE"));
  hello.send(curve_hello(zero));
  CHECK(hello.ended_by_peer(std::chrono::seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kServerKey) == 1; }));
  const RawSocket null(door.endpoint);
  null.send(greeting("NULL"));
  CHECK(null.ended_by_peer(std::chrono::seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kNoKeys) == 1; }));
  const RawSocket command(door.endpoint);
  command.send(greeting("CURVE"));
  command.send(Bytes{0x04, 5, 4, 'L', 'E', 'F', 'T'});
  CHECK(command.ended_by_peer(std::chrono::seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kHandshake) == 1; }));
  // Silence is ended by the time limit of the handshake.
  const RawSocket silent(door.endpoint);
  CHECK(silent.ended_by_peer(std::chrono::seconds(20)));
  CHECK(door.messages == 0);
}

TEST_CASE("gate: all handshakes that have failed are counted in one turn") {
  const Keyring ring;
  ZmqContext context;
  Gate gate(Tier::kEdge, ring.edge_keys(), {});
  gate.open(context);
  ZmqSocket router(context, ZMQ_ROUTER);
  gate.guard(context, router);
  const std::string endpoint = bound(router);
  constexpr int kMany = 100;
  for (int i = 0; i < kMany; ++i) {
    const RawSocket stranger(endpoint);
    stranger.send(greeting("NULL"));
    CHECK(stranger.ended_by_peer(std::chrono::seconds(20)));
  }
  std::this_thread::sleep_for(milliseconds(100));
  gate.serve(Clock::now());
  CHECK(denied(gate.denials(), Denial::kNoKeys) == kMany);
  gate.close();
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

// Run by the test below, in processes of its own.
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
