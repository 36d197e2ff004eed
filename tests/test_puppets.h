// A next tier without nodes: links that are puppets, and time that is told.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "net/channel.h"
#include "net/elapsed.h"
#include "net/upstream.h"

namespace offramp::test {

/// What a puppet's owner sees and pulls.
struct Strings {
  LinkState state = LinkState::kUp;
  int window = 8;
  LinkLoad load{};
  std::chrono::microseconds round_trip{0};
  std::vector<Handoff> got{};
  std::vector<RequestId> cancelled{};
  std::vector<LinkEvent> events{};
  bool alive = false;

  void answer(const RequestId& id) {
    events.emplace_back(Verdict{.request = id,
                                .decision = {.label = 2, .exit = 1},
                                .hops = {Hop{.tier = Tier::kEdge, .compute_us = 100}}});
  }
  void answer_last() { answer(got.back().request); }
  void fault(FaultCode code, std::uint32_t retry_after_us = 0) {
    events.emplace_back(
        Fault{.request = got.back().request, .code = code, .retry_after_us = retry_after_us});
  }
  void lose(bool silent = false) {
    state = LinkState::kDown;
    events.emplace_back(LinkDown{"lost", silent});
  }
  void greet() {
    state = LinkState::kUp;
    events.emplace_back(LinkUp{});
  }
};

/// A link that does what its strings say.
class Puppet final : public Channel {
 public:
  Puppet(Strings& strings, std::string endpoint)
      : strings_(strings), endpoint_(std::move(endpoint)) {
    strings_.alive = true;
  }
  ~Puppet() override { strings_.alive = false; }

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    strings_.got.push_back(handoff);
    sent_bytes = 100;
    return true;
  }
  void cancel(const RequestId& request) override { strings_.cancelled.push_back(request); }
  void service(Clock::time_point, std::vector<LinkEvent>& events) override {
    for (LinkEvent& event : strings_.events) events.emplace_back(std::move(event));
    strings_.events.clear();
  }
  void waitables(std::vector<Waitable>&) const override {}
  Clock::time_point due() const override { return Clock::time_point::max(); }
  LinkState state() const override { return strings_.state; }
  int window() const override { return strings_.window; }
  bool takes_pictures() const override { return false; }
  LinkLoad load() const override { return strings_.load; }
  std::chrono::microseconds round_trip() const override { return strings_.round_trip; }
  const std::string& endpoint() const override { return endpoint_; }

 private:
  Strings& strings_;
  std::string endpoint_;
};

/// Some nodes behind one Upstream.
struct Troupe {
  explicit Troupe(std::size_t count, Policy policy = Policy::kBalanced, std::uint64_t seed = 1)
      : nodes(count), upstream(links(seed), policy, WireModelId{}, 1, [this](LogLevel, auto& line) {
          said.push_back(line);
        }) {}

  NextNodes links(std::uint64_t seed) {
    NextNodes next;
    for (std::size_t i = 0; i < nodes.size(); ++i)
      next.links.push_back(std::make_unique<Puppet>(nodes[i], "puppet " + std::to_string(i)));
    next.seed = seed;
    return next;
  }

  Reason hand_on(std::chrono::milliseconds budget = std::chrono::milliseconds(1000)) {
    Request request{
        .ticket = next_ticket,
        .own = {.request = make_request_id(77, next_ticket), .decision = {}, .hops = {Hop{}}},
        .tensor = {.shape = {}, .raw_bytes = 3, .payload = {1, 2, 3}},
        .answer_by = now + budget + 2 * kTimerMargin};
    const Reason reason = upstream.hand_on(request, now);
    if (reason == Reason::kNone)
      ++next_ticket;
    else
      CHECK(request.tensor.payload.size() == 3);
    return reason;
  }
  std::vector<Settled> service() {
    std::vector<Settled> settled;
    upstream.service(now, settled);
    return settled;
  }
  /// The node that got a request last sent, and the other of two.
  Strings& busy() { return nodes[0].got.empty() ? nodes[1] : nodes[0]; }
  Strings& idle() { return &busy() == &nodes[0] ? nodes[1] : nodes[0]; }
  std::size_t sent() const {
    std::size_t sum = 0;
    for (const Strings& node : nodes) sum += node.got.size();
    return sum;
  }

  std::vector<Strings> nodes;
  std::vector<std::string> said;
  Clock::time_point now{std::chrono::hours(1)};
  std::uint64_t next_ticket = 0;
  Upstream upstream;
};

inline LinkLoad pace(Clock::time_point at, std::uint32_t queue, std::chrono::milliseconds service,
                     int workers) {
  return {.at = at, .queue_depth = queue, .service = service, .workers = workers};
}

}  // namespace offramp::test
