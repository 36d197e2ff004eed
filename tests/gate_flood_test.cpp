// Floods at a node's gate: strangers and garbage without number, handshakes that fail, and an
// honest device that does not notice.
#include <doctest/doctest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "net/device.h"
#include "net/gate.h"
#include "net/node.h"
#include "tests/test_keys.h"
#include "tests/test_nodes.h"
#include "tests/test_strangers.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

}  // namespace

TEST_CASE("gate: floods of strangers and of garbage, and an honest device that does not notice") {
  const SmallCascade cascade(SmallCascade::Thresholds::kMixed, 50);
  const Keyring ring;
  Ear ear, device_ear;
  Node node(cascade.stages(), cascade.id(), locked(ring.edge_keys()), nullptr, ear.log());
  std::atomic<int> knocks{0};
  // Keys that nobody knows: each asks the gate, is refused and comes again with another.
  std::jthread strangers = beside([&](const std::stop_token& stop) {
    std::vector<std::unique_ptr<Knocker>> all(8);
    for (std::size_t i = 0; !stop.stop_requested(); ++i) {
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
  std::jthread vandal = beside([&](const std::stop_token& stop) {
    std::mt19937 random(5);
    std::vector<std::unique_ptr<RawSocket>> open(64);
    while (!stop.stop_requested()) {
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
                to(cascade, node.endpoint(), 1, with_keys(ring.device_keys())), device_ear.log());
  CHECK(eventually([&] {
    return denied(node, Denial::kUnknownKey) > 20 && denied(node, Denial::kNoKeys) > 20 &&
           denied(node, Denial::kServerKey) > 20 && denied(node, Denial::kHandshake) > 0;
  }));
  const auto outcomes = run_all(device, cascade, 1000);
  for (std::jthread* flood : {&strangers, &vandal}) {
    flood->request_stop();
    flood->join();
  }
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
  CHECK(hello.ended_by_peer(seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kServerKey) == 1; }));
  const RawSocket null(door.endpoint);
  null.send(greeting("NULL"));
  CHECK(null.ended_by_peer(seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kNoKeys) == 1; }));
  const RawSocket command(door.endpoint);
  command.send(greeting("CURVE"));
  command.send(Bytes{0x04, 5, 4, 'L', 'E', 'F', 'T'});
  CHECK(command.ended_by_peer(seconds(20)));
  CHECK(eventually([&] { return denied(door.denials(), Denial::kHandshake) == 1; }));
  // Silence is ended by the time limit of the handshake.
  const RawSocket silent(door.endpoint);
  CHECK(silent.ended_by_peer(seconds(20)));
  CHECK(door.messages == 0);
}

TEST_CASE("gate: all handshakes that have failed are counted in one turn") {
  const Keyring ring;
  ZmqContext context;
  Gate gate(Tier::kEdge, ring.edge_keys(), {});
  gate.open(context);
  ZmqSocket router(context, ZMQ_ROUTER);
  gate.guard(context, router, 1 << 20);
  const std::string endpoint = bound(router);
  constexpr int kMany = 100;
  for (int i = 0; i < kMany; ++i) {
    const RawSocket stranger(endpoint);
    stranger.send(greeting("NULL"));
    CHECK(stranger.ended_by_peer(seconds(20)));
  }
  std::this_thread::sleep_for(milliseconds(100));
  gate.serve(Clock::now());
  CHECK(denied(gate.denials(), Denial::kNoKeys) == kMany);
  gate.close();
}

namespace {

/// A gate and its socket, which nobody receives from unless told.
struct Silo {
  static constexpr std::size_t kFrame = 64 << 10;
  static constexpr int kWindow = 4;

  /// Without a limit of its own.
  struct Peer {
    Peer(const ZmqContext& context, const std::string& endpoint) : socket(context, ZMQ_DEALER) {
      socket.set(ZMQ_SNDHWM, 0);
      socket.set(ZMQ_LINGER, 0);
      REQUIRE(zmq_connect(socket.get(), endpoint.c_str()) == 0);
    }
    /// One message.
    void send(int parts) {
      const Bytes part(kFrame);
      while (--parts >= 0) {
        const int more = parts > 0 ? ZMQ_SNDMORE : 0;
        REQUIRE(zmq_send(socket.get(), part.data(), part.size(), more) >= 0);
      }
    }
    ZmqSocket socket;
  };

  Silo() {
    gate.open(context);
    gate.guard(context, router, most_waiting_bytes(kFrame, kWindow));
    set_link_options(router, kFrame, kWindow);
    router.set(ZMQ_LINGER, 0);
    endpoint = bound(router);
    peer.emplace(context, endpoint);
  }
  ~Silo() { gate.close(); }

  void send(int parts) { peer->send(parts); }
  /// Looks again, a second later.
  std::uint64_t hung_up() {
    gate.serve(now += seconds(1));
    return denied(gate.denials(), Denial::kUnfinished);
  }

  Ear ear;
  ZmqContext context;
  Gate gate{Tier::kEdge, std::nullopt, ear.log()};
  ZmqSocket router{context, ZMQ_ROUTER};
  std::string endpoint;
  std::optional<Peer> peer;
  Clock::time_point now{};
};

/// Whether this system says what came over a connection, as Linux does and qemu's user mode does
/// not: it hands on the first four bytes of the answer.
bool received_bytes_are_told() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int peer = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  tcp_info info{};
  socklen_t told = sizeof info;
  const bool asked = bind(listener, any, size) == 0 && listen(listener, 1) == 0 &&
                     getsockname(listener, any, &size) == 0 && connect(peer, any, size) == 0 &&
                     getsockopt(peer, IPPROTO_TCP, TCP_INFO, &info, &told) == 0;
  close(peer);
  close(listener);
  REQUIRE(asked);
  return told > offsetof(tcp_info, tcpi_bytes_received);
}

}  // namespace

TEST_CASE("gate: a message longer than all that a peer may send is hung up on") {
  if (!received_bytes_are_told()) {
    MESSAGE("not tested: TCP_INFO has no bytes received here");
    return;
  }
  Silo silo;
  silo.send(40);
  CHECK(eventually([&] { return silo.hung_up() == 1; }));
  CHECK(silo.ear.count("hung up") == 1);
  // The next connection starts anew, and so do the bytes after each message.
  Parts parts;
  for (int i = 0; i < 40; ++i) {
    silo.send(1);
    REQUIRE(eventually([&] {
      CHECK(silo.hung_up() == 1);
      if (!silo.router.receive(parts)) return false;
      silo.gate.delivered(parts.source());
      return true;
    }));
  }
}

TEST_CASE("gate: whole messages that wait for a node are no reason to hang up") {
  Silo silo;
  for (int i = 0; i < 100; ++i) silo.send(1);
  const Clock::time_point end = Clock::now() + milliseconds(500);
  while (Clock::now() < end) REQUIRE(silo.hung_up() == 0);
  Parts parts;
  int received = 0;
  CHECK(eventually([&] {
    while (silo.router.receive(parts)) {
      silo.gate.delivered(parts.source());
      ++received;
    }
    return received == 100;
  }));
  CHECK(silo.hung_up() == 0);
}

TEST_CASE("gate: messages that came and were received between two looks are no reason to hang up") {
  Silo silo;
  Parts parts;
  silo.send(1);
  REQUIRE(eventually([&] { return silo.router.receive(parts); }));
  CHECK(silo.hung_up() == 0);
  Silo::Peer newcomer(silo.context, silo.endpoint);
  for (int i = 0; i < 40; ++i) {
    newcomer.send(1);
    REQUIRE(eventually([&] { return silo.router.receive(parts); }));
    silo.gate.serve(silo.now);  // too early for the next look
    silo.gate.delivered(parts.source());
  }
  CHECK(silo.hung_up() == 0);
}

}  // namespace offramp::test
