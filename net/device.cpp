#include "net/device.h"

#include <algorithm>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "engine/thread_pool.h"
#include "net/elapsed.h"
#include "net/node.h"

namespace offramp {
namespace {

// A picture that the next tier has.
struct Away {
  std::size_t index = 0;
  Outcome own;  ///< what the device answers if nothing better comes
  Clock::time_point ready, submitted, answer_by;
};

std::uint64_t at_tier_us(const Hop& hop) {
  return std::uint64_t{hop.queue_us} + hop.compute_us + hop.wait_us;
}

// Of the time that each tier waited for the next, what that one does not account for.
std::uint64_t on_the_wire_us(const std::vector<Hop>& hops) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < hops.size(); ++i) {
    const std::uint64_t there = i + 1 < hops.size() ? at_tier_us(hops[i + 1]) : 0;
    if (hops[i].wait_us > there) sum += hops[i].wait_us - there;
  }
  return sum;
}

}  // namespace

std::uint64_t Outcome::bytes_sent() const {
  std::uint64_t sum = 0;
  for (const Hop& hop : hops) sum += hop.sent_bytes;
  return sum;
}

struct Device::Impl {
  Impl(std::span<const Stage> all_stages, const ModelId& model_id,
       const DeviceOptions& device_options, std::unique_ptr<Channel> next_tier, Log log_callback)
      : stages(all_stages),
        model(wire_model_id(model_id)),
        options(device_options),
        next(std::move(next_tier)),
        log(std::move(log_callback)),
        pool(stages[0].plan().threads()),
        memory(stages[0].make_memory()),
        input(stages[0].plan().input_shape().elements()),
        session(random_session()) {
    memory.pool = &pool;
  }

  void run(std::size_t count, const Source& source);
  void serve(Feed& feed);
  void classify(std::size_t index, Clock::time_point ready);
  Reason hand_on(std::size_t index, Outcome& own, const View& carry, Clock::time_point ready);
  void await_link(Clock::time_point until);
  void make_room();
  void await_turn(Clock::time_point turn);
  void pump(Clock::time_point until, int wakeup = -1);
  void handle(LinkEvent event, Clock::time_point now);
  void next_answered(Verdict verdict, Clock::time_point now);
  void settle(std::map<RequestId, Away>::iterator request, Reason reason, Clock::time_point now);
  void give(std::size_t index, Outcome outcome, Clock::time_point ready);
  Clock::time_point earliest_deadline() const;
  std::size_t window() const;
  void say(LogLevel level, const std::string& line) const {
    if (log) log(level, line);
  }

  std::span<const Stage> stages;
  WireModelId model;
  DeviceOptions options;
  std::unique_ptr<Channel> next;
  Log log;
  ThreadPool pool;
  StageMemory memory;
  Buffer input;
  std::uint64_t session;
  std::uint64_t next_request = 0;
  /// Until then an absent next tier is waited for; none before it has been needed.
  std::optional<Clock::time_point> grace_ends;
  Clock::duration busy{};  ///< what the last picture took to read and to run
  bool told_absent = false;
  const Sink* sink = nullptr;  ///< of the run() that is going on
  std::map<RequestId, Away> away;
  std::uint64_t late = 0;
};

void Device::Impl::run(std::size_t count, const Source& source) {
  const std::span<float> pixels(input.data(), input.size());
  const Clock::time_point first = Clock::now();
  Clock::time_point turn = first;
  for (std::size_t index = 0; index < count; ++index) {
    await_turn(turn);
    make_room();
    const Clock::time_point begin = Clock::now();
    if (index > 0 && options.duration && begin >= first + *options.duration) break;
    turn = begin + options.every;
    if (source(index, pixels)) classify(index, Clock::now());
    busy = Clock::now() - begin;
  }
  while (!away.empty()) pump(earliest_deadline());
}

void Device::Impl::serve(Feed& feed) {
  const std::span<float> pixels(input.data(), input.size());
  while (true) {
    make_room();
    const Clock::time_point begin = Clock::now();
    std::size_t index = 0;
    Clock::time_point ready;
    switch (feed.next(pixels, index, ready)) {
      case Feed::Next::kPicture:
        classify(index, ready);
        busy = Clock::now() - begin;
        break;
      case Feed::Next::kNothingYet:
        pump(earliest_deadline(), feed.readable_fd());
        break;
      case Feed::Next::kEnd:
        while (!away.empty()) pump(earliest_deadline());
        return;
    }
  }
}

void Device::Impl::classify(std::size_t index, Clock::time_point ready) {
  const Clock::time_point begin = Clock::now();
  const Stage& stage = stages[0];
  const View picture{.data = input.data(), .batch = 1, .shape = stage.plan().input_shape()};
  const Stage::Outcome outcome = stage.step(picture, memory);
  Outcome own;
  own.decision = outcome.decisions[0];
  own.probabilities.assign(outcome.probabilities.begin(), outcome.probabilities.end());
  own.hops.push_back(Hop{.tier = Tier::kDevice,
                         .queue_us = elapsed_us(ready, begin),
                         .compute_us = elapsed_us(begin, Clock::now())});
  if (!stage.answers(own.decision)) {
    own.degraded = hand_on(index, own, outcome.carry, ready);
    if (own.degraded == Reason::kNone) return;
  }
  give(index, std::move(own), ready);
}

// Gives the picture to the next tier and keeps `own` for the worst case; or says why it cannot.
Reason Device::Impl::hand_on(std::size_t index, Outcome& own, const View& carry,
                             Clock::time_point ready) {
  if (!next) return Reason::kNoNext;
  const Clock::time_point answer_by = ready + options.deadline;
  if (!grace_ends) grace_ends = Clock::now() + options.connect_grace;
  await_link(std::min(*grace_ends, answer_by - kTimerMargin));
  if (next->state() == LinkState::kDraining) return Reason::kDraining;
  if (next->state() != LinkState::kUp) {
    if (!std::exchange(told_absent, true))
      say(LogLevel::kWarning, next->endpoint() + " does not answer: the device answers alone");
    return Reason::kDisconnected;
  }
  // Before the time is taken: what encoding costs is no longer there for the next tier.
  WireTensor tensor = encode_tensor(carry, options.format);
  const Clock::time_point now = Clock::now();
  const auto budget = budget_for_next(now, answer_by, next->round_trip());
  if (budget <= Clock::duration::zero()) return Reason::kLate;
  const RequestId id = make_request_id(session, next_request++);
  const bool sent = next->submit(Handoff{.request = id,
                                         .model = model,
                                         .cut = 1,
                                         .attempt = 0,
                                         .hop = 0,
                                         .budget_us = to_us(budget),
                                         .tensor = std::move(tensor)},
                                 own.hops[0].sent_bytes);
  if (!sent) return Reason::kDisconnected;
  away.emplace(id, Away{.index = index,
                        .own = std::move(own),
                        .ready = ready,
                        .submitted = now,
                        .answer_by = answer_by});
  return Reason::kNone;
}

// In the first moments an absent next tier may only be late to start.
void Device::Impl::await_link(Clock::time_point until) {
  while (next->state() != LinkState::kUp && Clock::now() < until) pump(until);
}

std::size_t Device::Impl::window() const {
  const int announced = next && next->state() == LinkState::kUp ? next->window() : options.window;
  return static_cast<std::size_t>(std::max(1, std::min(options.window, announced)));
}

// Waits until one more picture may be away, and no deadline falls into the time it takes to run it.
void Device::Impl::make_room() {
  pump(Clock::now());
  while (!away.empty() &&
         (away.size() >= window() || earliest_deadline() < Clock::now() + 2 * busy))
    pump(earliest_deadline());
}

void Device::Impl::await_turn(Clock::time_point turn) {
  while (Clock::now() < turn) {
    if (next)
      pump(turn);
    else
      std::this_thread::sleep_until(turn);
  }
}

Clock::time_point Device::Impl::earliest_deadline() const {
  Clock::time_point earliest = Clock::time_point::max();
  for (const auto& [id, request] : away)
    earliest = std::min(earliest, request.answer_by - kTimerMargin);
  return earliest;
}

// Waits for the next event, or until `wakeup` is readable, at most until `until`, and handles all
// events there are.
void Device::Impl::pump(Clock::time_point until, int wakeup) {
  if (!next && wakeup < 0) return;
  if (until > Clock::now()) {
    std::vector<Waitable> items;
    if (wakeup >= 0) items.push_back({.fd = wakeup});
    if (next) next->waitables(items);
    wait_readable(items, next ? std::min({until, next->due(), earliest_deadline()}) : until);
  }
  if (!next) return;
  const Clock::time_point now = Clock::now();
  std::vector<LinkEvent> events;
  next->service(now, events);
  for (LinkEvent& event : events) handle(std::move(event), now);
  for (auto it = away.begin(); it != away.end();) {
    const auto request = it++;
    if (now >= request->second.answer_by - kTimerMargin) settle(request, Reason::kLate, now);
  }
}

void Device::Impl::handle(LinkEvent event, Clock::time_point now) {
  if (auto* verdict = std::get_if<Verdict>(&event)) {
    next_answered(std::move(*verdict), now);
  } else if (const auto* fault = std::get_if<Fault>(&event)) {
    const auto found = away.find(fault->request);
    if (found == away.end())
      ++late;
    else
      settle(found, reason_of(fault->code), now);
  } else if (const auto* down = std::get_if<LinkDown>(&event)) {
    say(LogLevel::kWarning, "next tier lost: " + down->why);
    while (!away.empty()) settle(away.begin(), Reason::kPeerLost, now);
  } else if (std::holds_alternative<LinkUp>(event)) {
    told_absent = false;
    grace_ends = now;  // it was there: when it goes, nothing is waited for
    say(LogLevel::kInfo, "next tier connected: " + next->endpoint());
  } else if (const auto* barred = std::get_if<LinkBarred>(&event)) {
    say(LogLevel::kError, barred->why);
  } else if (const auto* refused = std::get_if<LinkRefused>(&event)) {
    const bool version = refused->fault.code == FaultCode::kVersion;
    throw Error(version ? ErrorKind::kUnavailable : ErrorKind::kBadModel, refused->why);
  }
}

void Device::Impl::next_answered(Verdict verdict, Clock::time_point now) {
  const auto found = away.find(verdict.request);
  if (found == away.end()) {
    ++late;
    return;
  }
  Away request = std::move(found->second);
  away.erase(found);
  Outcome outcome{.decision = verdict.decision,
                  .tier = verdict.tier,
                  .degraded = verdict.degraded,
                  .probabilities = std::move(verdict.probabilities),
                  .hops = std::move(request.own.hops)};
  outcome.hops[0].wait_us = elapsed_us(request.submitted, now);
  outcome.hops.insert(outcome.hops.end(), verdict.hops.begin(), verdict.hops.end());
  outcome.wire_us = on_the_wire_us(outcome.hops);
  give(request.index, std::move(outcome), request.ready);
}

// Answers a picture that is away with the device's own decision.
void Device::Impl::settle(std::map<RequestId, Away>::iterator request, Reason reason,
                          Clock::time_point now) {
  Away settled = std::move(request->second);
  away.erase(request);
  settled.own.degraded = reason;
  settled.own.hops[0].wait_us = elapsed_us(settled.submitted, now);
  settled.own.wire_us = on_the_wire_us(settled.own.hops);
  give(settled.index, std::move(settled.own), settled.ready);
}

void Device::Impl::give(std::size_t index, Outcome outcome, Clock::time_point ready) {
  outcome.total_us = elapsed_us(ready, Clock::now());
  (*sink)(index, outcome);
}

Device::Device(std::span<const Stage> stages, const ModelId& model, const DeviceOptions& options,
               std::unique_ptr<Channel> next, Log log)
    : impl_(std::make_unique<Impl>(stages, model, options, std::move(next), std::move(log))) {}

Device::~Device() = default;

void Device::run(std::size_t count, const Source& source, const Sink& sink) {
  impl_->sink = &sink;
  try {
    impl_->run(count, source);
  } catch (...) {
    impl_->away.clear();
    throw;
  }
}

void Device::serve(Feed& feed, const Sink& sink) {
  impl_->sink = &sink;
  try {
    impl_->serve(feed);
  } catch (...) {
    impl_->away.clear();
    throw;
  }
}

std::uint64_t Device::late_answers() const { return impl_->late; }

}  // namespace offramp
