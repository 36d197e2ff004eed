// A node with more to do than it can: batches, windows that follow, requests taken back, work that
// would be late, peers that are not heard any more. Over real sockets.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "net/device.h"
#include "net/node.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using Thresholds = SmallCascade::Thresholds;

}  // namespace

TEST_CASE("overload: what has queued is computed in batches, with the cascade's answers") {
  const SmallCascade cascade(Thresholds::kMixed, 60, 8);
  HeldWork work;
  NodeOptions options = whole_edge();
  options.before_compute = [&] { work.wait(); };
  SUBCASE("taking what is there") {}
  SUBCASE("waiting for more") { options.batch_delay = std::chrono::microseconds(2000); }
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  Device device(
      cascade.stages(), cascade.id(),
      {.deadline = milliseconds(120000), .connect_grace = milliseconds(5000), .window = 17},
      to(cascade, node.endpoint()), {});
  std::jthread opener = beside([&] {
    // One or, with a delay, up to eight are held up, and the others wait behind them.
    CHECK(eventually([&] { return node.counters().requests >= 17; }));
    work.hold = false;
  });
  const auto outcomes = run_all(device, cascade);
  opener.join();
  CHECK(count_reason(outcomes, Reason::kNone) == outcomes.size());
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    CHECK(outcomes[i].decision == cascade.expected()[i]);
  const NodeCounters counters = node.counters();
  CHECK(counters.batches >= (counters.requests + 7) / 8);
  // Of the first 17 alone, 16 have queued or were in a full batch.
  CHECK(counters.batches <= counters.requests - 14);
}

TEST_CASE("overload: many sessions share the room, and get it back") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  NodeOptions options = whole_edge();
  options.queue_capacity = 9;  // and one at work: room for 10
  options.window = 8;
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<RawClient>(node.endpoint()));
    CHECK(join(*clients.back(), cascade) == 8);
  }
  // A client of 1.1: the same HELLO, of which only the version differs.
  RawClient old(node.endpoint());
  Frames frames = encode(hello_of(cascade));
  CHECK(frames.header[5] == 2);
  frames.header[5] = 1;
  old.send({frames.header, frames.payload});
  const std::optional<Welcome> welcome = old.wait_for<Welcome>();
  REQUIRE(welcome.has_value());
  CHECK(welcome->window == 8);
  for (const auto& client : clients) {
    client->send(handoff_of(cascade, 1));
    CHECK(client->wait_for<Verdict>().has_value());
  }
  for (const auto& client : clients) {
    const std::optional<Credit> credit = client->wait_for<Credit>();
    REQUIRE(credit.has_value());
    CHECK(credit->window >= 1);
    CHECK(credit->window <= 4);
  }
  // Quiet for two seconds.
  for (const auto& client : clients) {
    std::optional<Credit> credit = client->wait_for<Credit>();
    while (credit && credit->window < 8) credit = client->wait_for<Credit>();
    CHECK(credit.has_value());
  }
  frames = encode(handoff_of(cascade, 1));
  frames.header[5] = 1;
  old.send({frames.header, frames.payload});
  old.send(Ping{.sequence = 1});
  bool answered = false, pong = false;
  while (!(answered && pong)) {
    const std::optional<Message> message = old.receive();
    REQUIRE(message.has_value());
    CHECK_FALSE(std::holds_alternative<Credit>(*message));
    answered = answered || std::holds_alternative<Verdict>(*message);
    pong = pong || std::holds_alternative<Pong>(*message);
  }
}

TEST_CASE("overload: a request that is taken back while it waits gives up its place") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  HeldWork work;
  NodeOptions options = whole_edge();
  options.window = 3;
  options.before_compute = [&] { work.wait(); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  RawClient client(node.endpoint()), other(node.endpoint());
  join(client, cascade);
  join(other, cascade);
  client.send(handoff_of(cascade, 0));
  REQUIRE(eventually([&] { return work.taken.load(); }));
  client.send(handoff_of(cascade, 1));
  client.send(handoff_of(cascade, 2));
  REQUIRE(eventually([&] { return node.counters().requests == 3; }));
  // Nobody takes back what is another's. Once what was sent after it has been refused, it has been
  // read.
  other.send(Cancel{.request = make_request_id(1, 2)});
  Handoff foreign = handoff_of(cascade, 7);
  foreign.model[0] ^= 1;
  other.send(foreign);
  REQUIRE(other.wait_for<Fault>().has_value());
  CHECK(node.counters().cancelled == 0);
  client.send(Cancel{.request = make_request_id(1, 1)});
  client.send(Cancel{.request = make_request_id(1, 0)});  // is being computed
  client.send(Cancel{.request = make_request_id(1, 9)});  // has never been
  client.send(handoff_of(cascade, 3));
  REQUIRE(eventually([&] { return node.counters().requests == 4; }));
  CHECK(node.counters().cancelled == 1);
  work.hold = false;
  std::map<RequestId, int> answers;
  for (int i = 0; i < 3; ++i) {
    const std::optional<Verdict> verdict = client.wait_for<Verdict>();
    REQUIRE(verdict.has_value());
    ++answers[verdict->request];
  }
  CHECK(answers == std::map<RequestId, int>{{make_request_id(1, 0), 1},
                                            {make_request_id(1, 2), 1},
                                            {make_request_id(1, 3), 1}});
  node.stop();
  CHECK(node.counters().answers == 3);
  CHECK(node.counters().unanswered == 0);
}

TEST_CASE("overload: a request that is taken back while the next tier has it is not answered") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  HeldWork work;
  NodeOptions slow = cloud_options();
  slow.before_compute = [&] { work.wait(); };
  const TwoNodes nodes(cascade, edge_options(), slow);
  RawClient client(nodes.edge->endpoint());
  join(client, cascade);
  client.send(handoff_of(cascade, 1));
  REQUIRE(eventually([&] { return work.taken.load(); }));
  client.send(Cancel{.request = make_request_id(1, 1)});
  REQUIRE(eventually([&] { return nodes.edge->counters().cancelled == 1; }));
  work.hold = false;
  client.send(handoff_of(cascade, 2));
  const std::optional<Verdict> verdict = client.wait_for<Verdict>();
  REQUIRE(verdict.has_value());
  CHECK(verdict->request == make_request_id(1, 2));
}

TEST_CASE(
    "overload: what could not be answered in time is refused at once, and told when to return") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  NodeOptions options = whole_edge();
  HeldWork work{.hold = false};
  options.before_compute = [&] {
    std::this_thread::sleep_for(milliseconds(40));
    work.wait();
  };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  RawClient client(node.endpoint());
  join(client, cascade);
  client.send(handoff_of(cascade, 0));
  REQUIRE(client.wait_for<Verdict>().has_value());
  client.send(Ping{.sequence = 1});
  const std::optional<Pong> pong = client.wait_for<Pong>();
  REQUIRE(pong.has_value());
  CHECK(pong->service_us >= 40'000);
  CHECK(pong->workers == 1);
  work.taken = false;
  work.hold = true;
  client.send(handoff_of(cascade, 1));
  REQUIRE(eventually([&] { return work.taken.load(); }));
  for (std::uint64_t i = 2; i < 5; ++i) client.send(handoff_of(cascade, i));
  Handoff urgent = handoff_of(cascade, 5);
  urgent.budget_us = 30'000;  // less than one takes, and one is before it
  client.send(urgent);
  const std::optional<Message> refused = client.receive();
  REQUIRE(refused.has_value());
  const Fault* const fault = std::get_if<Fault>(&*refused);
  REQUIRE(fault != nullptr);
  CHECK(fault->code == FaultCode::kOverloaded);
  CHECK(fault->request == urgent.request);
  CHECK(fault->retry_after_us >= 4 * 40'000);
  work.hold = false;
  for (int i = 0; i < 4; ++i) CHECK(client.wait_for<Verdict>().has_value());
  CHECK(node.counters().requests == 5);
}

TEST_CASE("overload: with one greedy device, the others keep what they ask for") {
  const SmallCascade cascade(Thresholds::kNone, 1, 4);
  NodeOptions options = whole_edge();
  options.queue_capacity = 32;
  // 500 requests a second.
  options.before_compute = [] { std::this_thread::sleep_for(milliseconds(2)); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  constexpr int kModest = 8, kEach = 25;
  std::atomic<int> greedy_refused{0};
  std::jthread greedy = beside([&](const std::stop_token& stop) {
    RawClient client(node.endpoint());
    join(client, cascade);
    std::uint64_t sent = 0, answered = 0;
    while (!stop.stop_requested()) {
      if (sent - answered < 500) client.send(handoff_of(cascade, sent++));
      while (const std::optional<Message> message = client.receive(milliseconds(0))) {
        if (!std::holds_alternative<Credit>(*message)) ++answered;
        if (std::holds_alternative<Fault>(*message)) ++greedy_refused;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  REQUIRE(eventually([&] { return greedy_refused > 10; }));
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < kModest; ++i) {
    clients.push_back(std::make_unique<RawClient>(node.endpoint()));
    join(*clients.back(), cascade);
  }
  int good = 0;
  for (std::uint64_t round = 0; round < kEach; ++round) {
    for (const auto& client : clients) client->send(handoff_of(cascade, round));
    for (const auto& client : clients) {
      std::optional<Message> message = client->receive();
      while (message && std::holds_alternative<Credit>(*message)) message = client->receive();
      REQUIRE(message.has_value());
      if (std::holds_alternative<Verdict>(*message)) ++good;
    }
  }
  greedy.request_stop();
  greedy.join();
  CHECK(good >= kModest * kEach * 9 / 10);
}

TEST_CASE("overload: asked for three times what it can do, a node does what it can, in time") {
  const SmallCascade cascade(Thresholds::kNone, 1, 4);
  NodeOptions options = whole_edge();
  std::atomic<Clock::rep> worked{0};
  options.before_compute = [&] {
    const Clock::time_point begin = Clock::now();
    std::this_thread::sleep_for(milliseconds(2));
    worked += (Clock::now() - begin).count();
  };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  // The queue could hold half a second.
  constexpr milliseconds kBudget{60}, kSlack{40}, kInterval{4};
  constexpr int kClients = 6, kRounds = 500;
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<RawClient>(node.endpoint()));
    join(*clients.back(), cascade);
  }
  std::map<RequestId, Clock::time_point> sent;
  int good = 0, late = 0, refused = 0, retry_later = 0;
  const auto listen = [&](milliseconds patience) {
    for (const auto& client : clients) {
      while (const std::optional<Message> message = client->receive(patience)) {
        if (const auto* verdict = std::get_if<Verdict>(&*message)) {
          const bool in_time = Clock::now() - sent.at(verdict->request) < kBudget + kSlack;
          ++(in_time ? good : late);
        } else if (const auto* fault = std::get_if<Fault>(&*message)) {
          ++refused;
          if (fault->retry_after_us > 0) ++retry_later;
        }
      }
    }
  };
  const Clock::time_point begin = Clock::now();
  std::uint64_t number = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (const auto& client : clients) {
      Handoff handoff = handoff_of(cascade, number++);
      handoff.budget_us = static_cast<std::uint32_t>(kBudget / std::chrono::microseconds(1));
      sent[handoff.request] = Clock::now();
      client->send(std::move(handoff));
    }
    listen(milliseconds(0));
    std::this_thread::sleep_until(begin + (round + 1) * kInterval);
  }
  const Clock::duration busy = Clock::now() - begin;
  const auto all_answered = [&] { return good + late + refused == kClients * kRounds; };
  for (int i = 0; i < 20 && !all_answered(); ++i) listen(milliseconds(200));
  const double share = static_cast<double>(worked) / static_cast<double>(busy.count());
  MESSAGE(good, " in time, ", late, " late, ", refused, " refused; at work for ", share);
  CHECK(share >= 0.7);
  CHECK(late <= good / 5);
  CHECK(refused > good / 2);
  CHECK(retry_later > refused / 2);
  CHECK(all_answered());
}

TEST_CASE("overload: stopping a crowded node in the middle of its batches loses nothing") {
  const SmallCascade cascade(Thresholds::kNone, 50, 8);
  NodeOptions options = whole_edge();
  options.workers = 2;
  options.batch_delay = std::chrono::microseconds(500);
  options.before_compute = [] { std::this_thread::sleep_for(milliseconds(1)); };
  Node node(cascade.stages(), cascade.id(), options, nullptr, {});
  std::jthread stopper = beside([&] {
    CHECK(eventually([&] { return node.counters().answers > 100; }));
    node.stop();
  });
  Device device(
      cascade.stages(), cascade.id(),
      {.deadline = milliseconds(120000), .connect_grace = milliseconds(5000), .window = 64},
      to(cascade, node.endpoint()), {});
  const auto outcomes = run_all(device, cascade, 2000);
  stopper.join();
  const NodeCounters counters = node.counters();
  CHECK(counters.requests == counters.answers);
  CHECK(counters.batches < counters.requests / 2);
  CHECK(counters.undeliverable == 0);
  CHECK(count_reason(outcomes, Reason::kNone) == counters.answers);
  CHECK(count_reason(outcomes, Reason::kDraining) > 0);
  CHECK(count_reason(outcomes, Reason::kPeerLost) == 0);
}

TEST_CASE("overload: after three malformed messages a connection is not heard, and others are") {
  const SmallCascade cascade(Thresholds::kNone, 1);
  Node node(cascade.stages(), cascade.id(), whole_edge(), nullptr, {});
  RawClient vandal(node.endpoint()), honest(node.endpoint());
  join(vandal, cascade);
  join(honest, cascade);
  Frames bad = encode(handoff_of(cascade, 1));
  bad.payload[0] ^= 1;
  for (int i = 0; i < 2; ++i) vandal.send({bad.header, bad.payload});
  vandal.send(handoff_of(cascade, 2));
  CHECK(vandal.wait_for<Verdict>().has_value());
  vandal.send({bad.header, bad.payload});
  REQUIRE(eventually([&] { return node.counters().struck_out == 1; }));
  vandal.send(handoff_of(cascade, 3));
  vandal.send(hello_of(cascade));
  honest.send(handoff_of(cascade, 4));
  CHECK(honest.wait_for<Verdict>().has_value());
  CHECK_FALSE(vandal.receive(milliseconds(300)).has_value());
  // A new connection begins anew.
  RawClient again(node.endpoint());
  join(again, cascade);
  again.send(handoff_of(cascade, 5));
  CHECK(again.wait_for<Verdict>().has_value());
  CHECK(node.counters().requests == 3);
}

}  // namespace offramp::test
