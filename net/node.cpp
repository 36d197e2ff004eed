#include "net/node.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "net/elapsed.h"
#include "net/fronts.h"
#include "net/tensor_codec.h"
#include "net/workers.h"

namespace offramp {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMaxSessions = 10000;
constexpr std::chrono::minutes kSessionExpiry{5};
// After DRAIN, messages that were under way are still answered until it has been quiet for so long.
constexpr milliseconds kDrainQuiet{100};
// Messages taken in one turn of the loop, so that timers and results get theirs.
constexpr int kMessagesPerTurn = 64;
constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 30;

const NodeOptions& checked(const NodeOptions& options, std::size_t stages) {
  const auto require = [](bool good, const std::string& wanted) {
    if (!good) throw Error(ErrorKind::kUsage, "node: wanted " + wanted);
  };
  require(options.first_stage >= 0 && options.stage_count >= 1 &&
              static_cast<std::size_t>(options.first_stage) +
                      static_cast<std::size_t>(options.stage_count) <=
                  stages,
          "stages of the model, found " + std::to_string(options.stage_count) + " from " +
              std::to_string(options.first_stage) + " on of " + std::to_string(stages));
  require(options.workers >= 1 && options.workers <= 1024, "1 to 1024 workers");
  require(options.queue_capacity >= 1, "a queue for at least one request");
  require(options.window >= 1 && options.window <= 65535, "a window of 1 to 65535 requests");
  require(!options.listen.empty() || !options.loopbacks.empty(), "an endpoint to listen on");
  return options;
}

// The largest payload that the stages of this node take.
std::size_t max_payload(std::span<const Stage> stages, const NodeOptions& options) {
  std::size_t largest = 0;
  for (int i = 0; i < options.stage_count; ++i) {
    const auto index = static_cast<std::size_t>(options.first_stage + i);
    const auto bytes = raw_bytes(stages[index].plan().input_shape(), DType::kF32);
    if (!bytes || *bytes > kMaxTensorBytes)
      throw Error(ErrorKind::kBadModel, "stage " + std::to_string(index) +
                                            ": wanted an input of at most 1 GiB, found " +
                                            to_string(stages[index].plan().input_shape()));
    largest = std::max(largest, *bytes);
  }
  return largest;
}

// A request that the next tier has.
struct Away {
  Peer peer;
  Verdict own;  ///< what this node answers if nothing better comes
  Clock::time_point submitted;
  Clock::time_point answer_by;
};

}  // namespace

struct Node::Impl {
  Impl(std::span<const Stage> all_stages, const ModelId& model_id, NodeOptions node_options,
       std::unique_ptr<Channel> next_tier, Log log_callback)
      : stages(all_stages),
        model(wire_model_id(model_id)),
        options(checked(std::move(node_options), all_stages.size())),
        next(std::move(next_tier)),
        log(std::move(log_callback)),
        session(random_u64()),
        fronts(options.listen, options.loopbacks,
               DecodeLimits{.max_payload_bytes = max_payload(stages, options),
                            .max_classes = static_cast<std::size_t>(stages[0].plan().classes()),
                            .max_exits = static_cast<int>(stages.size())},
               max_payload(stages, options), options.window),
        workers(stages, options.first_stage, options.stage_count, options.tier, options.workers,
                static_cast<std::size_t>(options.queue_capacity), options.before_compute) {}

  void loop();
  void wait_for_work(Clock::time_point now);
  void take_messages(Clock::time_point now);
  void take_results(Clock::time_point now);
  void take_link_events(Clock::time_point now);
  void check_deadlines(Clock::time_point now);
  void expire_sessions(Clock::time_point now);
  void begin_drain(Clock::time_point now);
  bool drained(Clock::time_point now) const;

  void handle(const Peer& peer, Message message, Clock::time_point now);
  void handle(const Peer& peer, const Hello& hello, Clock::time_point now);
  void handle(const Peer& peer, Handoff handoff, Clock::time_point now);
  void handle(const Peer& peer, Malformed reason);
  void finish(Knock knock, Clock::time_point now);
  void finish(Done done, Clock::time_point now);
  Reason hand_on(Verdict& own, Done& done, Clock::time_point now);
  void next_answered(Verdict verdict, Clock::time_point now);
  void settle_away(const RequestId& id, Reason reason, Clock::time_point now);

  bool serves(std::uint8_t cut, const Shape& shape) const;
  void answer(const Peer& peer, Verdict verdict);
  void fault(const Peer& peer, const RequestId& request, FaultCode code, std::string text);
  void send(const Peer& peer, Message message);
  void say(LogLevel level, const std::string& line) const {
    if (log) log(level, line);
  }
  template <class Change>
  void count(Change change) {
    const std::lock_guard lock(counters_mutex);
    change(counters);
  }

  std::span<const Stage> stages;
  WireModelId model;
  NodeOptions options;
  std::unique_ptr<Channel> next;
  Log log;
  std::uint64_t session;  ///< of this node's own requests to the next tier
  std::uint64_t next_request = 0;
  EventFd stop_event;
  Fronts fronts;
  Workers workers;

  std::map<Peer, Clock::time_point> sessions;  ///< and when each was last heard
  std::map<RequestId, Away> away;
  std::size_t in_work = 0;  ///< with the workers, or in their queues
  bool draining = false;
  Clock::time_point drain_began{}, last_message{}, next_expiry{};

  mutable std::mutex counters_mutex;
  NodeCounters counters;
  std::thread thread;  ///< runs loop()
};

void Node::Impl::loop() {
  while (true) {
    Clock::time_point now = Clock::now();
    wait_for_work(now);
    now = Clock::now();
    if (stop_event.clear() && !draining) begin_drain(now);
    take_messages(now);
    take_results(Clock::now());
    take_link_events(Clock::now());
    now = Clock::now();
    check_deadlines(now);
    expire_sessions(now);
    if (draining && drained(now)) break;
  }
  if (in_work > 0 || !away.empty())
    say(LogLevel::kWarning, "stopped with " + std::to_string(in_work + away.size()) +
                                " requests unanswered: no time left");
  fronts.close();
}

void Node::Impl::wait_for_work(Clock::time_point now) {
  std::vector<Waitable> items;
  fronts.waitables(items);
  items.push_back({.fd = workers.results_fd()});
  items.push_back({.fd = stop_event.fd()});
  Clock::time_point until = now + std::chrono::seconds(1);
  if (draining) until = now + milliseconds(10);
  for (const auto& [id, request] : away) until = std::min(until, request.answer_by - kTimerMargin);
  if (next) {
    next->waitables(items);
    until = std::min(until, next->due());
  }
  wait_readable(items, until);
}

void Node::Impl::take_messages(Clock::time_point now) {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    std::optional<Fronts::Received> received = fronts.receive();
    if (!received) return;
    if (auto* message = std::get_if<Message>(&received->second))
      handle(received->first, std::move(*message), now);
    else
      handle(received->first, std::get<Malformed>(received->second));
  }
}

void Node::Impl::handle(const Peer& peer, Message message, Clock::time_point now) {
  if (const auto* hello = std::get_if<Hello>(&message)) {
    handle(peer, *hello, now);
    return;
  }
  const auto known = sessions.find(peer);
  if (known != sessions.end()) known->second = now;
  if (std::holds_alternative<Bye>(message)) {
    sessions.erase(peer);
  } else if (auto* handoff = std::get_if<Handoff>(&message)) {
    if (known == sessions.end())
      fault(peer, handoff->request, FaultCode::kNoSession, "say HELLO first");
    else
      handle(peer, std::move(*handoff), now);
  } else if (const auto* ping = std::get_if<Ping>(&message)) {
    if (known == sessions.end())
      fault(peer, {}, FaultCode::kNoSession, "say HELLO first");
    else if (workers.push(Knock{.peer = peer, .message = *ping, .arrived = now}))
      ++in_work;
  } else {
    handle(peer, Malformed::kType);
  }
}

void Node::Impl::handle(const Peer& peer, const Hello& hello, Clock::time_point now) {
  if (draining) {
    fault(peer, {}, FaultCode::kDraining, "shutting down");
  } else if (hello.model != model) {
    const std::string text = "wanted model " + short_id(model) + ", found " + short_id(hello.model);
    say(LogLevel::kWarning, "a peer was refused: " + text);
    fault(peer, {}, FaultCode::kModelMismatch, text);
  } else if (!serves(hello.cut, hello.shape)) {
    const std::string text = "cut " + std::to_string(hello.cut) + " with " +
                             to_string(hello.shape) + " is not served here";
    say(LogLevel::kWarning, "a peer was refused: " + text);
    fault(peer, {}, FaultCode::kModelMismatch, text);
  } else if (sessions.size() >= kMaxSessions && !sessions.contains(peer)) {
    fault(peer, {}, FaultCode::kOverloaded, "too many peers");
  } else if (workers.push(Knock{.peer = peer, .message = hello, .arrived = now})) {
    ++in_work;
  }
}

void Node::Impl::handle(const Peer& peer, Handoff handoff, Clock::time_point now) {
  last_message = now;
  if (draining) {
    fault(peer, handoff.request, FaultCode::kDraining, "shutting down");
    return;
  }
  if (handoff.model != model || !serves(handoff.cut, handoff.shape)) {
    fault(peer, handoff.request, FaultCode::kModelMismatch,
          "wanted model " + short_id(model) + ", found " + short_id(handoff.model) + " at cut " +
              std::to_string(handoff.cut));
    return;
  }
  const Shape shape = stages[handoff.cut].plan().input_shape();
  Job job{.peer = peer,
          .request = handoff.request,
          .cut = handoff.cut,
          .hop = handoff.hop,
          .arrived = now,
          .answer_by = now + std::chrono::microseconds(handoff.budget_us),
          .input = Buffer(shape.elements())};
  const std::span<float> input(job.input.data(), shape.elements());
  if (const auto bad = decode_tensor(handoff.payload, handoff.dtype, handoff.codec, shape, input)) {
    fault(peer, handoff.request, FaultCode::kBadTensor,
          *bad == TensorError::kSize ? "wanted " + to_string(shape) + " as f32"
                                     : std::string("wanted finite numbers"));
    return;
  }
  if (!workers.push(std::move(job))) {
    fault(peer, handoff.request, FaultCode::kOverloaded, "the queue is full");
    return;
  }
  ++in_work;
  count([](NodeCounters& c) { ++c.requests; });
}

void Node::Impl::handle(const Peer& peer, Malformed reason) {
  count([reason](NodeCounters& c) { ++c.malformed[static_cast<std::size_t>(reason)]; });
  say(LogLevel::kDebug, std::string("malformed message dropped: ") + malformed_name(reason));
  if (reason == Malformed::kVersion)
    fault(peer, {}, FaultCode::kVersion, "wanted protocol version " + std::to_string(kWireMajor));
}

void Node::Impl::take_results(Clock::time_point now) {
  while (std::optional<Workers::Result> result = workers.pop_result()) {
    --in_work;
    std::visit([this, now](auto& r) { finish(std::move(r), now); }, *result);
  }
}

void Node::Impl::finish(Knock knock, Clock::time_point now) {
  if (const auto* ping = std::get_if<Ping>(&knock.message)) {
    send(knock.peer, Pong{.sequence = ping->sequence,
                          .queue_depth = static_cast<std::uint32_t>(workers.queued()),
                          .held_us = elapsed_us(knock.arrived, now)});
    return;
  }
  if (draining) return;
  const Hello& hello = std::get<Hello>(knock.message);
  sessions[knock.peer] = now;
  send(knock.peer, Welcome{.session = hello.session,
                           .model = model,
                           .cut = hello.cut,
                           .shape = hello.shape,
                           .tier = options.tier,
                           .window = static_cast<std::uint16_t>(options.window)});
}

void Node::Impl::finish(Done done, Clock::time_point now) {
  if (done.expired) {
    count([](NodeCounters& c) { ++c.expired; });
    fault(done.job.peer, done.job.request, FaultCode::kExpired, "the budget had run out");
    return;
  }
  Verdict own{.request = done.job.request,
              .decision = done.decision,
              .tier = options.tier,
              .degraded = Reason::kNone,
              .hops = {done.hop},
              .probabilities = std::move(done.probabilities)};
  if (!done.answers) own.degraded = hand_on(own, done, now);
  if (done.answers || own.degraded != Reason::kNone) answer(done.job.peer, std::move(own));
}

// Gives the sample to the next tier and keeps `own` for the worst case; or says why it cannot.
Reason Node::Impl::hand_on(Verdict& own, Done& done, Clock::time_point now) {
  if (!next) return Reason::kNoNext;
  switch (next->state()) {
    case LinkState::kUp:
      break;
    case LinkState::kConnecting:
    case LinkState::kDown:
      return Reason::kDisconnected;
    case LinkState::kDraining:
      return Reason::kDraining;
    case LinkState::kMismatched:
      return Reason::kModelMismatch;
  }
  if (away.size() >= static_cast<std::size_t>(next->window())) return Reason::kOverloaded;
  const auto budget = budget_for_next(now, done.job.answer_by, next->round_trip());
  if (budget <= Clock::duration::zero()) return Reason::kLate;
  if (done.job.hop + 1u >= kMaxHops) return Reason::kRefused;
  const RequestId id = make_request_id(session, next_request++);
  const bool sent = next->submit(
      Handoff{.request = id,
              .model = model,
              .cut = static_cast<std::uint8_t>(options.first_stage + options.stage_count),
              .attempt = 0,
              .hop = static_cast<std::uint8_t>(done.job.hop + 1),
              .budget_us = to_us(budget),
              .dtype = DType::kF32,
              .codec = Codec::kRaw,
              .shape = done.carry_shape,
              .payload = std::move(done.carry)},
      own.hops[0].sent_bytes);
  if (!sent) return Reason::kDisconnected;
  count([](NodeCounters& c) { ++c.forwarded; });
  away.emplace(id, Away{.peer = done.job.peer,
                        .own = std::move(own),
                        .submitted = now,
                        .answer_by = done.job.answer_by});
  return Reason::kNone;
}

void Node::Impl::take_link_events(Clock::time_point now) {
  if (!next) return;
  std::vector<LinkEvent> events;
  next->service(now, events);
  for (LinkEvent& event : events) {
    if (auto* verdict = std::get_if<Verdict>(&event)) {
      next_answered(std::move(*verdict), now);
    } else if (const auto* fault_event = std::get_if<Fault>(&event)) {
      settle_away(fault_event->request, reason_of(fault_event->code), now);
    } else if (std::holds_alternative<LinkUp>(event)) {
      say(LogLevel::kInfo, "next tier connected: " + next->endpoint());
    } else if (const auto* down = std::get_if<LinkDown>(&event)) {
      say(LogLevel::kWarning, "next tier lost: " + down->why);
      while (!away.empty()) settle_away(RequestId(away.begin()->first), Reason::kPeerLost, now);
    } else if (const auto* refused = std::get_if<LinkRefused>(&event)) {
      say(LogLevel::kError, "next tier refused: " + refused->why);
    }
  }
}

void Node::Impl::next_answered(Verdict verdict, Clock::time_point now) {
  const auto found = away.find(verdict.request);
  if (found == away.end()) {
    count([](NodeCounters& c) { ++c.unmatched; });
    return;
  }
  Away request = std::move(found->second);
  away.erase(found);
  Hop hop = request.own.hops[0];
  hop.wait_us = elapsed_us(request.submitted, now);
  verdict.request = request.own.request;
  if (verdict.hops.size() == kMaxHops) verdict.hops.pop_back();
  verdict.hops.insert(verdict.hops.begin(), hop);
  answer(request.peer, std::move(verdict));
}

// Answers a request that is away with this node's own decision.
void Node::Impl::settle_away(const RequestId& id, Reason reason, Clock::time_point now) {
  const auto found = away.find(id);
  if (found == away.end()) {
    count([](NodeCounters& c) { ++c.unmatched; });
    return;
  }
  Away request = std::move(found->second);
  away.erase(found);
  request.own.degraded = reason;
  request.own.hops[0].wait_us = elapsed_us(request.submitted, now);
  answer(request.peer, std::move(request.own));
}

void Node::Impl::check_deadlines(Clock::time_point now) {
  std::vector<RequestId> late;
  for (const auto& [id, request] : away)
    if (now >= request.answer_by - kTimerMargin) late.push_back(id);
  for (const RequestId& id : late) settle_away(id, Reason::kLate, now);
}

void Node::Impl::expire_sessions(Clock::time_point now) {
  if (now < next_expiry) return;
  next_expiry = now + std::chrono::seconds(10);
  std::erase_if(sessions, [now](const auto& s) { return now - s.second > kSessionExpiry; });
}

void Node::Impl::begin_drain(Clock::time_point now) {
  draining = true;
  drain_began = last_message = now;
  say(LogLevel::kInfo,
      "stopping: " + std::to_string(in_work + away.size()) + " requests to finish");
  std::vector<Peer> peers;
  for (const auto& [peer, heard] : sessions) peers.push_back(peer);
  for (const Peer& peer : peers) send(peer, Drain{});
}

bool Node::Impl::drained(Clock::time_point now) const {
  if (now - drain_began >= options.drain) return true;
  if (in_work > 0 || !away.empty()) return false;
  return sessions.empty() || now - last_message >= kDrainQuiet;
}

bool Node::Impl::serves(std::uint8_t cut, const Shape& shape) const {
  return cut >= options.first_stage && cut < options.first_stage + options.stage_count &&
         shape == stages[cut].plan().input_shape();
}

void Node::Impl::answer(const Peer& peer, Verdict verdict) {
  if (!std::isfinite(verdict.decision.entropy) || !std::isfinite(verdict.decision.probability)) {
    fault(peer, verdict.request, FaultCode::kNoAnswer, "the exit's numbers are not finite");
    return;
  }
  count([&verdict](NodeCounters& c) {
    ++c.answers;
    if (verdict.degraded != Reason::kNone) ++c.degraded;
  });
  send(peer, std::move(verdict));
}

void Node::Impl::fault(const Peer& peer, const RequestId& request, FaultCode code,
                       std::string text) {
  count([](NodeCounters& c) { ++c.faults; });
  send(peer, Fault{.request = request, .code = code, .model = model, .text = std::move(text)});
}

void Node::Impl::send(const Peer& peer, Message message) {
  if (fronts.send(peer, std::move(message))) return;
  count([](NodeCounters& c) { ++c.undeliverable; });
  sessions.erase(peer);
}

Node::Node(std::span<const Stage> stages, const ModelId& model, NodeOptions options,
           std::unique_ptr<Channel> next, Log log)
    : impl_(std::make_unique<Impl>(stages, model, std::move(options), std::move(next),
                                   std::move(log))) {
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

NodeCounters Node::counters() const {
  const std::lock_guard lock(impl_->counters_mutex);
  return impl_->counters;
}

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
