// Several nodes of one tier on real sockets, found by name: one may go, get stuck, come back at
// another address, and the device loses nothing.
#include "net/replicas.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "net/device.h"
#include "net/node.h"
#include "net/zmq_channel.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Thresholds = SmallCascade::Thresholds;

NextNodes nodes_at(const SmallCascade& cascade, const std::vector<std::string>& endpoints,
                   ZmqChannelOptions options = {}) {
  std::vector<ZmqEndpoint> all;
  for (const std::string& endpoint : endpoints) all.push_back({.endpoint = endpoint});
  return zmq_nodes(all, cascade.link(), std::move(options));
}

// What names stand for, as it changes.
class Names {
 public:
  void set(std::vector<std::string> addresses) {
    const std::lock_guard lock(mutex_);
    addresses_ = std::move(addresses);
  }
  Resolve resolve() {
    return [this](const std::string&) {
      const std::lock_guard lock(mutex_);
      ++lookups;
      return addresses_;
    };
  }
  std::atomic<int> lookups{0};

 private:
  std::mutex mutex_;
  std::vector<std::string> addresses_;
};

}  // namespace

TEST_CASE("replicas: two edges share the work, and the answers are the cascade's") {
  const SmallCascade cascade(Thresholds::kMixed);
  const auto first = start(cascade, whole_edge()), second = start(cascade, whole_edge());
  Device device(cascade.stages(), cascade.id(), kPatient,
                nodes_at(cascade, {first->endpoint(), second->endpoint()}), {});
  connect(device, cascade, 2);
  const std::uint64_t before = first->counters().answers;
  // How evenly is upstream_test's to say: a busy machine may make one of them look slow for long.
  const auto shared = [&] {
    check_whole(run_all(device, cascade, 600), cascade);
    return first->counters().answers > before + 100 && second->counters().answers > 100;
  };
  CHECK(eventually(shared, seconds(60)));
  for (const LinkStatus& link : device.links()) {
    CHECK(link.away == 0);
    CHECK(link.window == 64);
    CHECK(link.round_trip.count() > 0);
    CHECK(link.answered == link.sent);
    CHECK(link.breaker == BreakerState::kClosed);
  }
}

TEST_CASE("replicas: an edge with two clouds goes on when one of them is stopped") {
  const SmallCascade cascade(Thresholds::kNone, 40);
  auto first = start(cascade, cloud_options());
  const auto second = start(cascade, cloud_options());
  Ear ear;
  Node edge(cascade.stages(), cascade.id(), edge_options(),
            zmq_nodes({{first->endpoint()}, {second->endpoint()}}, cascade.link(2)), ear.log());
  ear.await_next_tier(2);
  Device device(cascade.stages(), cascade.id(), kPatient, nodes_at(cascade, {edge.endpoint()}), {});
  std::jthread stopper = beside([&] {
    CHECK(eventually([&] { return first->counters().answers >= 100; }));
    first->stop();
  });
  check_whole(run_all(device, cascade, 1500), cascade);
  stopper.join();
  CHECK(first->counters().answers >= 100);
  CHECK(eventually([&] { return first->counters().answers + second->counters().answers == 1500; }));
}

TEST_CASE("replicas: what a stuck edge has is lost by its silence, and answered by the other") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  HeldWork work{.hold = false};
  NodeOptions options = whole_edge();
  options.before_compute = [&] { work.wait(); };
  const auto first = start(cascade, options), second = start(cascade, whole_edge());
  ZmqChannelOptions quick;
  quick.times.ping_active = milliseconds(100);
  Device device(cascade.stages(), cascade.id(), kPatient,
                nodes_at(cascade, {first->endpoint(), second->endpoint()}, quick), {});
  connect(device, cascade, 2);
  work.hold = true;
  // All that the stuck one has, at most eight, is within the budget of retries.
  check_whole(run_all(device, cascade, 40), cascade);
  const LinkStatus link = device.links()[0];
  CHECK(link.endpoint == first->endpoint());
  CHECK(link.retried > 0);
  CHECK(link.retried == link.failed);
  CHECK(link.breaker != BreakerState::kClosed);
  // Well again, it gets a request, and then its share.
  work.hold = false;
  const std::uint64_t before = device.links()[0].answered;
  run_until(device, cascade, [&] {
    return device.links()[0].breaker == BreakerState::kClosed &&
           device.links()[0].answered > before;
  });
}

TEST_CASE("replicas: an edge without credit is left alone") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  Loopback cable;
  const auto other = start(cascade, whole_edge());
  NextNodes nodes = nodes_at(cascade, {other->endpoint()});
  nodes.links.push_back(cable.connect(cascade.link()));
  // A node by hand, which greets and takes its window back.
  cable.attach();
  std::atomic<int> requests{0}, cancels{0};
  std::jthread node = beside([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      Message message;
      if (!cable.receive(message)) {
        wait_readable({{.fd = cable.readable_fd()}}, Clock::now() + milliseconds(5));
      } else if (const auto* hello = std::get_if<Hello>(&message)) {
        cable.send(welcome_to(*hello, 5));
      } else if (const auto* ping = std::get_if<Ping>(&message)) {
        cable.send(Pong{.sequence = ping->sequence});
        cable.send(Credit{.window = 0});
      } else if (std::holds_alternative<Handoff>(message)) {
        ++requests;
      } else if (std::holds_alternative<Cancel>(message)) {
        ++cancels;
      }
    }
  });
  Device device(cascade.stages(), cascade.id(),
                {.deadline = milliseconds(2000), .connect_grace = milliseconds(20000)},
                std::move(nodes), {});
  run_until(device, cascade, [&] {
    const auto links = device.links();
    return std::ranges::all_of(links, [](const auto& l) { return l.state == LinkState::kUp; }) &&
           links[0].window == 0;
  });
  const int before = requests;
  CHECK(count_reason(run_all(device, cascade, 100), Reason::kNone) == 100);
  CHECK(requests == before);
  // Of the few that it got before, it answered none.
  CHECK(eventually([&] { return cancels == requests; }));
  node.request_stop();
  node.join();
  cable.detach();
}

TEST_CASE("replicas: all addresses of a name get their share; one that vanishes gets no more") {
  const SmallCascade cascade(Thresholds::kNone, 20);
  const auto first = start(cascade, whole_edge()), second = start(cascade, whole_edge());
  Names names;
  names.set({first->endpoint(), second->endpoint()});
  NextNodes nodes = nodes_at(cascade, {"tcp://edges.example:5555"});
  nodes.resolve = names.resolve();
  nodes.look_up_again = milliseconds(50);
  Device device(cascade.stages(), cascade.id(), kPatient, std::move(nodes), {});
  connect(device, cascade, 2);
  check_whole(run_all(device, cascade, 200), cascade);
  CHECK(eventually([&] { return first->counters().answers > 20; }));
  CHECK(eventually([&] { return second->counters().answers > 20; }));

  names.set({second->endpoint()});
  run_until(device, cascade, [&] { return device.links().size() == 1; });
  const std::uint64_t before = first->counters().requests;
  check_whole(run_all(device, cascade, 100), cascade);
  CHECK(first->counters().requests == before);

  names.set({});  // found nothing: says nothing about those that were found
  const int lookups = names.lookups;
  run_until(device, cascade, [&] { return names.lookups > lookups + 2; });
  CHECK(device.links().size() == 1);
  check_whole(run_all(device, cascade, 20), cascade);
}

TEST_CASE("replicas: a node that comes back at another address is found") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  auto edge = start(cascade, whole_edge());
  Names names;
  names.set({edge->endpoint()});
  NextNodes nodes = nodes_at(cascade, {"tcp://edge.example:5555"});
  nodes.resolve = names.resolve();
  Device device(cascade.stages(), cascade.id(), kPatient, std::move(nodes), {});
  check_whole(run_all(device, cascade, 10), cascade);
  const std::string old = edge->endpoint();
  edge = start(cascade, whole_edge());
  REQUIRE(edge->endpoint() != old);
  names.set({edge->endpoint()});
  const Clock::time_point healed = Clock::now();
  const std::vector<Outcome> outcomes = run_until(device, cascade, [&] {
    return device.links().size() == 1 && device.links()[0].endpoint == edge->endpoint() &&
           device.links()[0].answered > 0;
  });
  // Not after the 30 s in which a name is looked up anew; two seconds on a machine with time.
  CHECK(Clock::now() - healed < seconds(10));
  CHECK(outcomes.back().degraded == Reason::kNone);
}

TEST_CASE("replicas: a name that leads nowhere is told once, as an error") {
  const SmallCascade cascade(Thresholds::kNone, 4);
  std::atomic<int> lookups{0};
  NextNodes nodes = nodes_at(cascade, {"tcp://nowhere.example:5555"});
  nodes.resolve = [&](const std::string& endpoint) -> std::vector<std::string> {
    ++lookups;
    throw Error(ErrorKind::kUnavailable, endpoint + ": wanted an address, found none");
  };
  std::vector<std::pair<LogLevel, std::string>> said;
  Device device(cascade.stages(), cascade.id(), kPatient, std::move(nodes),
                [&](LogLevel level, const std::string& line) { said.emplace_back(level, line); });
  run_until(device, cascade, [&] { return lookups >= 3; });
  const auto told = [](const auto& each) {
    return each.second.find("nowhere") != each.second.npos;
  };
  std::erase_if(said,
                [&](const auto& each) { return !told(each) || each.first != LogLevel::kError; });
  REQUIRE(said.size() == 1);
  CHECK(said[0].second == "next tier: tcp://nowhere.example:5555: wanted an address, found none");
}

TEST_CASE("replicas: a node that two names lead to stays as long as one of them does") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  const auto shared = start(cascade, whole_edge()), other = start(cascade, whole_edge());
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> led{
      {"tcp://a.example:5555", {shared->endpoint()}},
      {"tcp://b.example:5555", {shared->endpoint()}}};
  NextNodes nodes = nodes_at(cascade, {"tcp://a.example:5555", "tcp://b.example:5555"});
  nodes.resolve = [&](const std::string& endpoint) {
    const std::lock_guard lock(mutex);
    return led.at(endpoint);
  };
  nodes.look_up_again = milliseconds(50);
  Device device(cascade.stages(), cascade.id(), kPatient, std::move(nodes), {});
  connect(device, cascade);
  for (const char* leaves : {"tcp://a.example:5555", "tcp://b.example:5555"}) {
    {
      const std::lock_guard lock(mutex);
      led = {{"tcp://a.example:5555", {shared->endpoint()}},
             {"tcp://b.example:5555", {shared->endpoint()}}};
    }
    // Names are looked up one after the other: before one leads away, the other has to be known.
    run_until(device, cascade, [&] { return device.links().size() == 1; });
    {
      const std::lock_guard lock(mutex);
      led.at(leaves) = {other->endpoint()};
    }
    connect(device, cascade, 2);
    const std::uint64_t before = shared->counters().requests;
    check_whole(run_all(device, cascade, 100), cascade);
    CHECK(eventually([&] { return shared->counters().requests > before; }));
  }
}

}  // namespace offramp::test
