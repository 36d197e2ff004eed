// The loop, and the front door.
#include "net/node.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "net/admission.h"
#include "net/fronts.h"
#include "net/poll.h"
#include "net/service.h"

namespace offramp {
namespace {

// Messages taken in one turn of the loop, so that timers and results get theirs; fewer when they
// take longer than kTurn.
constexpr int kMessagesPerTurn = 64;

const NodeOptions& checked(std::span<const Stage> stages, const NodeOptions& options) {
  check_independent(stages);
  const auto require = [](bool good, const std::string& wanted, const std::string& found) {
    if (!good) throw Error(ErrorKind::kUsage, "node: wanted " + wanted + ", found " + found);
  };
  require(options.workers >= 1 && options.workers <= 1024, "1 to 1024 workers",
          std::to_string(options.workers));
  require(options.queue_capacity >= 1, "a queue for at least one request",
          std::to_string(options.queue_capacity));
  require(options.batch_delay.count() >= 0 && options.batch_delay.count() <= 1000000,
          "a batch delay of 0 to 1 s", std::to_string(options.batch_delay.count()) + " us");
  require(options.window >= 1 && options.window <= 65535, "a window of 1 to 65535 requests",
          std::to_string(options.window));
  require(!options.listen.empty() || !options.loopbacks.empty(), "an endpoint to listen on",
          "none");
  return options;
}

}  // namespace

struct Node::Impl {
  Impl(std::span<const Stage> stages, const WireModelId& model, const NodeOptions& options,
       NextNodes next, Log log)
      : admission(stages, model, options.first_stage, options.stage_count, options.pictures),
        // A path needs no lock beside its permissions.
        gate(options.tier, is_ipc(options.listen) ? std::nullopt : options.keys, log),
        fronts(options.listen, options.loopbacks, admission.limits(), options.window, gate),
        telemetry(stages.size()),
        service(stages, admission, model, options, std::move(next), fronts, telemetry,
                std::move(log)) {}

  void loop();
  void wait_for_work();
  void take_messages(Clock::time_point now);

  std::vector<Waitable> waited_for;  ///< kept, for its memory
  Admission admission;
  Gate gate;
  Fronts fronts;
  Telemetry telemetry;
  Service service;
  EventFd stop_event;
  std::thread thread;  ///< runs loop()
};

void Node::Impl::loop() {
  while (true) {
    wait_for_work();
    const Clock::time_point now = Clock::now();
    if (stop_event.clear() && !service.draining()) service.begin_drain(now);
    fronts.admit(now);
    take_messages(Clock::now());
    service.take_results(Clock::now());
    service.review_sessions(now);
    service.report(now);
    if (service.draining() && service.drained(now)) break;
  }
  service.end_drain();
  fronts.close();
}

void Node::Impl::wait_for_work() {
  waited_for.clear();
  fronts.waitables(waited_for);
  service.waitables(waited_for);
  waited_for.push_back({.fd = stop_event.fd()});
  wait_readable(waited_for, std::min(service.due(Clock::now()), fronts.due()));
}

void Node::Impl::take_messages(Clock::time_point now) {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    std::optional<Fronts::Received> received = fronts.receive(now);
    if (!received) return;
    service.take(received->first, std::move(received->second), now);
    if (Clock::now() - now > kTurn) return;
  }
}

Node::Node(std::span<const Stage> stages, const ModelId& model, const NodeOptions& options,
           NextNodes next, Log log)
    : impl_(std::make_unique<Impl>(stages, wire_model_id(model), checked(stages, options),
                                   std::move(next), std::move(log))) {
  try {
    impl_->thread = std::thread([impl = impl_.get()] { impl->loop(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kSystem, std::string("node thread: ") + error.what());
  }
}

Node::~Node() { stop(); }

const std::string& Node::endpoint() const { return impl_->fronts.endpoint(); }

void Node::request_stop() noexcept { impl_->stop_event.signal(); }

void Node::wait() {
  if (impl_->thread.joinable()) impl_->thread.join();
}

TelemetrySnapshot Node::telemetry() const {
  TelemetrySnapshot snapshot = impl_->telemetry.snapshot(Clock::now());
  snapshot.counters.denied = impl_->gate.denials();
  return snapshot;
}

NodeCounters Node::counters() const {
  NodeCounters counters = impl_->telemetry.counters();
  counters.denied = impl_->gate.denials();
  return counters;
}

void Node::allow(AllowList allowed) { impl_->gate.allow(std::move(allowed)); }

LinkIdentity link_identity(std::span<const Stage> stages, const ModelId& model, int next_stage) {
  if (next_stage < 1 || static_cast<std::size_t>(next_stage) >= stages.size())
    throw Error(ErrorKind::kUsage, "next tier: wanted a stage after this one, found none");
  const Stage& stage = stages[static_cast<std::size_t>(next_stage)];
  return {.model = wire_model_id(model),
          .cut = static_cast<std::uint8_t>(next_stage),
          .shape = stage.plan().input_shape(),
          .classes = static_cast<std::size_t>(stage.plan().classes()),
          .exits = static_cast<int>(stages.size())};
}

}  // namespace offramp
