// A node's service with peers that say anything in any order, and an honest client beside them that
// gets the right answer, bit for bit, every time.
//
// Input: one message after the other; a byte says whose and how much later. The service lives on,
// as a node does; each input ends with a BYE of all its peers.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/cascade.h"
#include "net/fronts.h"
#include "net/node.h"
#include "net/service.h"
#include "net/tensor_codec.h"
#include "tests/fuzz/messages.h"
#include "tests/test_files.h"

using namespace offramp;

namespace {

constexpr int kHostile = 0, kHonest = 1;  // cables
constexpr int kPeers = 3;

void require(bool good) {
  if (!good) std::abort();
}

Peer hostile_peer(int number) {
  return {.cable = kHostile,
          .routing_id = std::string(static_cast<std::size_t>(number) + 1, 'x'),
          .key = number == 2 ? "key" : ""};
}

class World {
 public:
  World() {
    stages_ = make_stages(model_, std::vector<float>{0.0f}, PlanOptions{});
    const Shape shape = stages_[1].plan().input_shape();
    for (std::size_t i = 0; i < shape.elements(); ++i)
      input_.push_back(static_cast<float>(i % 7) - 3.0f);
    StageMemory memory = stages_[1].make_memory();
    wanted_ = stages_[1].step(view(), memory).decisions[0];
    admission_.emplace(stages_, wire_model_id(model_.id), 1, 1);
    fronts_.emplace("", std::vector<Loopback*>{&cables_[0], &cables_[1]}, admission_->limits(), 64,
                    gate_);
    service_.emplace(stages_, *admission_, wire_model_id(model_.id), NodeOptions{}, nullptr,
                     *fronts_, telemetry_, Log{});
    const LinkIdentity identity = link_identity(stages_, model_.id, 1);
    hostile_ = cables_[kHostile].connect(identity);
    honest_ = cables_[kHonest].connect(identity);
    plain_ = {.session = 1, .model = identity.model, .cut = identity.cut, .shape = identity.shape};
    until([this] { return honest_->state() == LinkState::kUp; });
  }

  void hostile_message(fuzz::Input& in) {
    const std::uint8_t how = in.byte();
    now_ += std::chrono::milliseconds(how / 8);
    service_->take(hostile_peer(how % kPeers), fuzz::message(in, plain_, admission_->limits()),
                   now_);
  }

  void honest_request() {
    std::uint32_t sent = 0;
    require(honest_->submit(Handoff{.request = make_request_id(7, ++requests_),
                                    .model = plain_.model,
                                    .cut = plain_.cut,
                                    .budget_us = 60'000'000,
                                    .tensor = encode_tensor(view(), {})},
                            sent));
    answered_ = false;
    until([this] { return answered_; });
  }

  void hostile_peers_leave() {
    for (int i = 0; i < kPeers; ++i) service_->take(hostile_peer(i), Message(Bye{}), now_);
    turn();
  }

 private:
  View view() const {
    return {.data = input_.data(), .batch = 1, .shape = stages_[1].plan().input_shape()};
  }

  template <class Condition>
  void until(Condition condition) {
    const Clock::time_point end = Clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      require(Clock::now() < end);
      turn();
      if (condition()) return;
      std::vector<Waitable> items;
      service_->waitables(items);
      fronts_->waitables(items);
      wait_readable(items, Clock::now() + std::chrono::milliseconds(1));
    }
  }

  // As a node's loop.
  void turn() {
    now_ = std::max(now_, Clock::now());
    while (auto received = fronts_->receive(now_))
      service_->take(received->first, std::move(received->second), now_);
    service_->take_results(now_);
    service_->review_sessions(now_);
    service_->report(now_);
    std::vector<LinkEvent> events;
    hostile_->service(now_, events);
    events.clear();
    honest_->service(now_, events);
    for (const LinkEvent& event : events) {
      require(!std::holds_alternative<Fault>(event) && !std::holds_alternative<LinkDown>(event));
      const auto* verdict = std::get_if<Verdict>(&event);
      if (verdict == nullptr) continue;
      require(verdict->request == make_request_id(7, requests_) && !answered_);
      require(verdict->decision == wanted_ && verdict->degraded == Reason::kNone);
      answered_ = true;
    }
  }

  // Aligned as parse_model() wants it, and there for good.
  const testing::Bytes file_ = testing::small_model().signed_file();
  const Model model_ = parse_model(file_, "fuzz");
  std::vector<Stage> stages_;
  std::vector<float> input_;
  Decision wanted_;
  std::optional<Admission> admission_;
  Gate gate_{Tier::kEdge, std::nullopt, Log{}};
  Loopback cables_[2];
  std::optional<Fronts> fronts_;
  Telemetry telemetry_{2};
  std::optional<Service> service_;
  std::unique_ptr<Channel> hostile_, honest_;
  Hello plain_;
  Clock::time_point now_ = Clock::now();
  std::uint64_t requests_ = 0;
  bool answered_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World& world = *new World;  // never torn down: its threads end with the process
  fuzz::Input in({data, size});
  while (!in.empty()) world.hostile_message(in);
  world.honest_request();
  world.hostile_peers_leave();
  return 0;
}
