// Several nodes of one tier on real sockets, found by name: one may go, get stuck, come back at
// another address, and the device loses nothing.
#include "net/replicas.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "net/device.h"
#include "net/node.h"
#include "net/zmq_channel.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Thresholds = SmallCascade::Thresholds;

constexpr DeviceOptions kPatient{.deadline = milliseconds(20000),
                                 .connect_grace = milliseconds(20000)};

// Runs all that follows the device.
NodeOptions whole_edge(const std::string& listen = "tcp://127.0.0.1:*") {
  return {.tier = Tier::kEdge, .listen = listen, .stage_count = 2};
}

std::unique_ptr<Node> start(const SmallCascade& cascade, const NodeOptions& options) {
  return std::make_unique<Node>(cascade.stages(), cascade.id(), options, nullptr, Log{});
}

NextNodes nodes_at(const SmallCascade& cascade, const std::vector<std::string>& endpoints,
                   ZmqChannelOptions options = {}) {
  std::vector<ZmqEndpoint> all;
  for (const std::string& endpoint : endpoints) all.push_back({.endpoint = endpoint});
  return zmq_nodes(all, link_identity(cascade.stages(), cascade.id(), 1), std::move(options));
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

// Runs pictures until `condition`, for 20 s at most; all outcomes.
template <class Condition>
std::vector<Outcome> run_until(Device& device, const SmallCascade& cascade, Condition condition) {
  std::vector<Outcome> all;
  const Clock::time_point until = Clock::now() + seconds(20);
  do {
    const std::vector<Outcome> some = run_all(device, cascade, 10);
    all.insert(all.end(), some.begin(), some.end());
    std::this_thread::sleep_for(milliseconds(5));
  } while (!condition() && Clock::now() < until);
  CHECK(condition());
  return all;
}

std::size_t up(const Device& device) {
  return static_cast<std::size_t>(
      std::ranges::count(device.links(), LinkState::kUp, &LinkStatus::state));
}

void check_whole(const std::vector<Outcome>& outcomes, const SmallCascade& cascade) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CAPTURE(i);
    CHECK(outcomes[i].degraded == Reason::kNone);
    CHECK(outcomes[i].decision == cascade.expected()[i % cascade.size()]);
  }
}

}  // namespace

TEST_CASE("replicas: two edges share the work, and the answers are the cascade's") {
  const SmallCascade cascade(Thresholds::kMixed);
  const auto first = start(cascade, whole_edge()), second = start(cascade, whole_edge());
  Device device(cascade.stages(), cascade.id(), kPatient,
                nodes_at(cascade, {first->endpoint(), second->endpoint()}), {});
  const Clock::time_point until = Clock::now() + seconds(20);
  while (up(device) < 2 && Clock::now() < until) run_all(device, cascade, 5);
  const std::uint64_t before = first->counters().answers;
  check_whole(run_all(device, cascade, 600), cascade);
  CHECK(first->counters().answers > before + 100);
  CHECK(second->counters().answers > 100);
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
  const NodeOptions cloud{.tier = Tier::kCloud, .listen = "tcp://127.0.0.1:*", .first_stage = 2};
  auto first = start(cascade, cloud);
  const auto second = start(cascade, cloud);
  std::atomic<int> connected{0};
  Node edge(cascade.stages(), cascade.id(), {.tier = Tier::kEdge, .listen = "tcp://127.0.0.1:*"},
            zmq_nodes({{first->endpoint()}, {second->endpoint()}},
                      link_identity(cascade.stages(), cascade.id(), 2)),
            [&](LogLevel, const std::string& line) {
              if (line.starts_with("next tier connected")) ++connected;
            });
  const Clock::time_point until = Clock::now() + seconds(20);
  while (connected < 2 && Clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
  REQUIRE(connected == 2);
  Device device(cascade.stages(), cascade.id(), kPatient, nodes_at(cascade, {edge.endpoint()}), {});
  std::thread stopper([&] {
    while (first->counters().answers < 100 && Clock::now() < until)
      std::this_thread::sleep_for(milliseconds(1));
    first->stop();
  });
  check_whole(run_all(device, cascade, 1500), cascade);
  stopper.join();
  CHECK(first->counters().answers >= 100);
  CHECK(first->counters().answers + second->counters().answers == 1500);
}

TEST_CASE("replicas: what a stuck edge has is lost by its silence, and answered by the other") {
  const SmallCascade cascade(Thresholds::kNone, 10);
  std::atomic<bool> stuck{false};
  NodeOptions options = whole_edge();
  options.before_compute = [&] {
    while (stuck) std::this_thread::sleep_for(milliseconds(1));
  };
  const auto first = start(cascade, options), second = start(cascade, whole_edge());
  ZmqChannelOptions quick;
  quick.times.ping_active = milliseconds(100);
  Device device(cascade.stages(), cascade.id(), kPatient,
                nodes_at(cascade, {first->endpoint(), second->endpoint()}, quick), {});
  run_until(device, cascade, [&] { return up(device) == 2; });
  stuck = true;
  // All that the stuck one has, at most eight, is within the budget of retries.
  check_whole(run_all(device, cascade, 40), cascade);
  const LinkStatus link = device.links()[0];
  CHECK(link.endpoint == first->endpoint());
  CHECK(link.retried > 0);
  CHECK(link.retried == link.failed);
  CHECK(link.breaker != BreakerState::kClosed);
  // Well again, it gets a request, and then its share.
  stuck = false;
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
  nodes.links.push_back(cable.connect(link_identity(cascade.stages(), cascade.id(), 1)));
  // A node by hand, which greets and takes its window back.
  cable.attach();
  std::atomic<bool> over{false};
  std::atomic<int> requests{0}, cancels{0};
  std::thread node([&] {
    while (!over) {
      Message message;
      if (!cable.receive(message)) {
        wait_readable({{.fd = cable.readable_fd()}}, Clock::now() + milliseconds(5));
      } else if (const auto* hello = std::get_if<Hello>(&message)) {
        cable.send(Welcome{.session = hello->session,
                           .model = hello->model,
                           .cut = hello->cut,
                           .shape = hello->shape,
                           .window = 5});
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
  CHECK(cancels == requests);  // of the few that it got before, it answered none
  over = true;
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
  run_until(device, cascade, [&] { return up(device) == 2; });
  check_whole(run_all(device, cascade, 200), cascade);
  CHECK(first->counters().answers > 20);
  CHECK(second->counters().answers > 20);

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
  run_until(device, cascade, [&] { return up(device) == 1; });
  for (const char* leaves : {"tcp://a.example:5555", "tcp://b.example:5555"}) {
    {
      const std::lock_guard lock(mutex);
      led = {{"tcp://a.example:5555", {shared->endpoint()}},
             {"tcp://b.example:5555", {shared->endpoint()}}};
      led.at(leaves) = {other->endpoint()};
    }
    run_until(device, cascade, [&] { return up(device) == 2; });
    const std::uint64_t before = shared->counters().requests;
    check_whole(run_all(device, cascade, 100), cascade);
    CHECK(shared->counters().requests > before);
  }
}

}  // namespace offramp::test
