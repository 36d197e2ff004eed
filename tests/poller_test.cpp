// Waiting: wait_readable() for a few things, Poller for very many.

#include <doctest/doctest.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "net/poller.h"
#include "net/socket.h"
#include "tests/test_wait.h"

namespace offramp {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::array<std::uint8_t, 3> kWord = {1, 2, 3};

/// Two sockets that are connected inside this process.
struct Pair {
  explicit Pair(const ZmqContext& context) : left(context, ZMQ_PAIR), right(context, ZMQ_PAIR) {
    static int count = 0;
    const std::string endpoint = "inproc://poller-test-" + std::to_string(count++);
    REQUIRE(zmq_bind(left.get(), endpoint.c_str()) == 0);
    REQUIRE(zmq_connect(right.get(), endpoint.c_str()) == 0);
  }
  void read_until_empty() {
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (right.receive(parts, 1, count)) {
    }
  }
  ZmqSocket left, right;
};

TEST_CASE("poller: says which of a thousand has something") {
  Poller poller;
  std::vector<std::unique_ptr<EventFd>> events;
  for (std::size_t i = 0; i < 1000; ++i) {
    events.push_back(std::make_unique<EventFd>());
    poller.add(i, {{.fd = events.back()->fd()}});
  }
  std::vector<std::size_t> ready = {5};
  poller.wait(Clock::now(), ready);
  CHECK(ready.empty());
  events[7]->signal();
  events[900]->signal();
  poller.wait(Clock::now() + seconds(20), ready);
  std::ranges::sort(ready);
  CHECK(ready == std::vector<std::size_t>{7, 900});
  events[7]->clear();
  poller.wait(Clock::now() + seconds(20), ready);
  CHECK(ready == std::vector<std::size_t>{900});
}

TEST_CASE("poller: tells of as many as there are, over several waits") {
  Poller poller;
  std::vector<std::unique_ptr<EventFd>> events;
  for (std::size_t i = 0; i < 600; ++i) {
    events.push_back(std::make_unique<EventFd>());
    poller.add(i, {{.fd = events.back()->fd()}});
    events.back()->signal();
  }
  std::size_t told = 0;
  std::vector<std::size_t> ready;
  do {
    poller.wait(Clock::now(), ready);
    for (const std::size_t key : ready) told += events[key]->clear() ? 1 : 0;
  } while (!ready.empty());
  CHECK(told == 600);
}

TEST_CASE("poller: ZeroMQ sockets that are read until they are empty") {
  const ZmqContext context;
  Pair pair(context);
  Poller poller;
  poller.add(3, {{.socket = pair.right.get()}});
  std::vector<std::size_t> ready;
  for (int i = 0; i < 50; ++i) {
    pair.read_until_empty();
    const std::jthread sender = testing::beside([&pair] {
      for (int n = 0; n < 5; ++n) REQUIRE(pair.left.send({kWord}));
    });
    std::size_t received = 0;
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (received < 5) {
      poller.wait(Clock::now() + seconds(20), ready);
      REQUIRE(ready == std::vector<std::size_t>{3});
      while (pair.right.receive(parts, 1, count)) ++received;
    }
  }
}

TEST_CASE("waiting ends when the time has come, and not before") {
  const ZmqContext context;
  const Pair pair(context);
  Poller poller;
  poller.add(0, {{.socket = pair.right.get()}});
  std::vector<std::size_t> ready;
  for (const microseconds time : {microseconds(300), microseconds(2500)}) {
    Clock::time_point until = Clock::now() + time;
    // Whoever waits looks again when something is ready that turns out to be nothing.
    do poller.wait(until, ready);
    while (!ready.empty() && Clock::now() < until);
    CHECK(Clock::now() >= until);
    until = Clock::now() + time;
    wait_readable({{.socket = pair.right.get()}}, until);
    CHECK(Clock::now() >= until);
  }
  // Long gone: at once.
  poller.wait(Clock::time_point(), ready);
  wait_readable({{.socket = pair.right.get()}}, Clock::time_point());
}

TEST_CASE("wait_readable: a socket with something left is readable, however old it is") {
  const ZmqContext context;
  Pair pair(context);
  REQUIRE(pair.left.send({kWord}));
  REQUIRE(pair.left.send({kWord}));
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < 2; ++i) {
    wait_readable({{.socket = pair.right.get()}}, begin + seconds(20));
    std::vector<Bytes> parts;
    std::size_t count = 0;
    REQUIRE(pair.right.receive(parts, 1, count));
  }
  EventFd event;
  event.signal();
  wait_readable({{.socket = pair.right.get()}, {.fd = event.fd()}}, begin + seconds(20));
  CHECK(event.clear());
  CHECK(Clock::now() < begin + seconds(20));
}

TEST_CASE("wait_readable: what another thread sends wakes it") {
  const ZmqContext context;
  Pair pair(context);
  const std::jthread sender = testing::beside([&pair] {
    std::this_thread::sleep_for(milliseconds(20));
    REQUIRE(pair.left.send({kWord}));
  });
  const Clock::time_point until = Clock::now() + seconds(20);
  wait_readable({{.socket = pair.right.get()}}, until);
  CHECK(Clock::now() < until);
  std::vector<Bytes> parts;
  std::size_t count = 0;
  CHECK(pair.right.receive(parts, 1, count));
}

}  // namespace
}  // namespace offramp
