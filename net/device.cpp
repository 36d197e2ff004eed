#include "net/device.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "engine/thread_pool.h"
#include "net/elapsed.h"
#include "net/tensor_codec.h"
#include "net/upstream.h"

namespace offramp {
namespace {

// Of the time that the device waited, what no tier behind it has worked or kept the request for.
// Not the sum over each tier's wait: those end when a thread gets to look, and one may seem shorter
// than what the tier after it did meanwhile.
std::uint64_t on_the_wire_us(std::span<const Hop> hops) {
  if (hops.empty()) return 0;
  std::uint64_t there = 0;
  for (const Hop& hop : hops.subspan(1)) there += std::uint64_t{hop.queue_us} + hop.compute_us;
  return hops[0].wait_us > there ? hops[0].wait_us - there : 0;
}

Outcome outcome_of(Verdict verdict) {
  Outcome outcome{.decision = verdict.decision,
                  .tier = verdict.tier,
                  .degraded = verdict.degraded,
                  .probabilities = std::move(verdict.probabilities),
                  .hops = std::move(verdict.hops)};
  outcome.wire_us = on_the_wire_us(outcome.hops);
  return outcome;
}

}  // namespace

std::uint64_t Outcome::bytes_sent() const {
  std::uint64_t sum = 0;
  for (const Hop& hop : hops) sum += hop.sent_bytes;
  return sum;
}

struct Device::Impl {
  Impl(std::span<const Stage> all_stages, const ModelId& model, const DeviceOptions& device_options,
       NextNodes next, Log log_callback)
      : stages(all_stages),
        options(device_options),
        log(std::move(log_callback)),
        pool(stages[0].plan().threads()),
        memory(stages[0].make_memory()),
        input(stages[0].plan().input_shape().elements()),
        upstream(std::move(next), options.policy, wire_model_id(model), 1, log),
        auditor(options.audit) {
    check_independent(stages);
    memory.pool = &pool;
    if (options.cut == Cut::kTensor) return;
    if (!options.pictures)
      throw Error(ErrorKind::kUsage, "device: wanted how pictures become inputs, found nothing");
    table.emplace(*options.pictures);
  }

  void run(std::size_t count, const Source& source);
  void serve(Feed& feed);
  void finish();
  void classify(std::size_t index, Clock::time_point ready);
  Reason hand_on(std::size_t index, Verdict& own, const View& carry, Clock::time_point ready);
  void audit(std::size_t index, const Decision& given, const View& carry);
  bool wants_picture(Clock::time_point answer_by);
  WireTensor to_send(const View& carry, bool as_picture);
  void settle(Settled settled, Clock::time_point now);
  [[noreturn]] void throw_refusal() const;
  void await_link(Clock::time_point until);
  void make_room(const Feed* feed = nullptr);
  std::size_t window() const { return static_cast<std::size_t>(std::max(1, options.window)); }
  Clock::time_point last_moment(const Feed* feed) const;
  void await_turn(Clock::time_point turn);
  void pump(Clock::time_point until, int wakeup = -1);
  void give(std::size_t index, Outcome outcome, Clock::time_point ready);
  void forget_all() {
    std::vector<Settled> nobodys;
    upstream.give_up(Reason::kLate, Clock::now(), nobodys);
  }
  void say(LogLevel level, const std::string& line) const {
    if (log) log(level, line);
  }

  std::span<const Stage> stages;
  DeviceOptions options;
  Log log;
  ThreadPool pool;
  StageMemory memory;
  Buffer input;
  Upstream upstream;
  std::optional<PixelTable> table;  ///< when pictures may be sent
  FormChoice forms;
  Auditor auditor;
  /// Until then an absent next tier is waited for; none before it has been needed.
  std::optional<Clock::time_point> grace_ends;
  Clock::duration busy{};  ///< what the last picture took to read and to run
  bool told_absent = false;
  std::optional<LinkRefused> refusal;  ///< that left no node to talk to, until one is up
  const Sink* sink = nullptr;          ///< of the run() that is going on
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
  finish();
}

// Until everything that is away has come to its end.
void Device::Impl::finish() {
  while (upstream.away() > 0 || upstream.auditing()) pump(upstream.due());
}

void Device::Impl::serve(Feed& feed) {
  const std::span<float> pixels(input.data(), input.size());
  while (true) {
    make_room(&feed);
    const Clock::time_point begin = Clock::now();
    std::size_t index = 0;
    Clock::time_point ready;
    switch (feed.next(pixels, index, ready)) {
      case Feed::Next::kPicture:
        classify(index, ready);
        busy = Clock::now() - begin;
        break;
      case Feed::Next::kNothingYet:
        pump(upstream.earliest_deadline(), feed.readable_fd());
        break;
      case Feed::Next::kEnd:
        finish();
        return;
    }
  }
}

void Device::Impl::classify(std::size_t index, Clock::time_point ready) {
  const Clock::time_point begin = Clock::now();
  const Stage& stage = stages[0];
  const View picture{.data = input.data(), .batch = 1, .shape = stage.plan().input_shape()};
  const Stage::Outcome outcome = stage.step(picture, memory);
  Verdict own{.decision = outcome.decisions[0],
              .tier = Tier::kDevice,
              .hops = {Hop{.tier = Tier::kDevice,
                           .queue_us = elapsed_us(ready, begin),
                           .compute_us = elapsed_us(begin, Clock::now())}},
              .probabilities = {outcome.probabilities.begin(), outcome.probabilities.end()}};
  const bool sure = stage.answers(outcome.doubts[0]);
  const bool local = !sure && options.policy == Policy::kLocalOnly;
  if (!sure && !local) {
    const Reason obstacle = hand_on(index, own, outcome.carry, ready);
    if (obstacle == Reason::kNone) return;
    own.degraded = obstacle;
  }
  Outcome alone = outcome_of(std::move(own));
  alone.local = local;
  give(index, std::move(alone), ready);
  if (sure && auditor.draws()) audit(index, outcome.decisions[0], outcome.carry);
}

void Device::Impl::audit(std::size_t index, const Decision& given, const View& carry) {
  if (upstream.auditing() || !upstream.up()) return;
  const Clock::time_point answer_by = Clock::now() + options.deadline;
  Request request{
      .ticket = index,
      .own = {.decision = given, .tier = Tier::kDevice, .hops = {Hop{}}},
      .tensor = to_send(carry, options.cut == Cut::kPicture && upstream.takes_pictures()),
      .hop = 0,
      .answer_by = answer_by};
  upstream.audit(std::move(request), Clock::now());
}

// Gives the picture to the next tier and `own` with it, for the worst case; or says why it cannot.
Reason Device::Impl::hand_on(std::size_t index, Verdict& own, const View& carry,
                             Clock::time_point ready) {
  if (upstream.none()) return Reason::kNoNext;
  if (refusal) throw_refusal();  // it may have come while there was no picture to tell it of
  const Clock::time_point answer_by = ready + options.deadline;
  if (!grace_ends) grace_ends = Clock::now() + options.connect_grace;
  await_link(std::min(*grace_ends, answer_by - kTimerMargin));
  if (upstream.away() >= window()) return Reason::kOverloaded;
  const Reason obstacle = upstream.obstacle(answer_by, Clock::now());
  if (obstacle == Reason::kDisconnected && !std::exchange(told_absent, true))
    say(LogLevel::kWarning, upstream.endpoints() + " does not answer: the device answers alone");
  if (obstacle != Reason::kNone) return obstacle;
  WireTensor tensor = to_send(carry, wants_picture(answer_by));
  Request request{.ticket = index,
                  .own = std::move(own),
                  .tensor = std::move(tensor),
                  .hop = 0,
                  .answer_by = answer_by};
  // Only now, as what encoding costs is no longer there for the next tier.
  const Reason reason = upstream.hand_on(request, Clock::now());
  if (reason != Reason::kNone) own = std::move(request.own);
  return reason;
}

bool Device::Impl::wants_picture(Clock::time_point answer_by) {
  if (!table || !upstream.takes_pictures()) return false;
  const Clock::time_point now = Clock::now();
  return options.cut == Cut::kPicture || forms.choose(answer_by - now, now) == Form::kPicture;
}

// The picture, where it can be had again from what was made of it, or the tensor.
WireTensor Device::Impl::to_send(const View& carry, bool as_picture) {
  if (as_picture) {
    const View picture{.data = input.data(), .batch = 1, .shape = stages[0].plan().input_shape()};
    if (auto tensor = encode_pixels(picture, *table, options.format.codec))
      return std::move(*tensor);
  }
  return encode_tensor(carry, options.format);
}

void Device::Impl::settle(Settled settled, Clock::time_point now) {
  const bool picture = settled.dtype == DType::kPixels;
  const Form form = picture ? Form::kPicture : Form::kTensor;
  Outcome outcome = outcome_of(std::move(settled.verdict));
  outcome.sent_picture = picture;
  const std::chrono::microseconds waited{outcome.hops[0].wait_us};
  if (outcome.hops.size() > 1)
    forms.answered(form, waited - std::chrono::microseconds{outcome.hops[1].queue_us}, now);
  else if (outcome.degraded == Reason::kLate)
    forms.late(form, waited, now);
  give(settled.ticket, std::move(outcome), settled.answer_by - options.deadline);
}

void Device::Impl::throw_refusal() const {
  const bool version = refusal->fault.code == FaultCode::kVersion;
  throw Error(version ? ErrorKind::kUnavailable : ErrorKind::kBadModel, refusal->why);
}

// In the first moments an absent next tier may only be late to start.
void Device::Impl::await_link(Clock::time_point until) {
  while (!upstream.up() && Clock::now() < until) pump(until);
}

// Waits until one more picture may be away, and no deadline falls into the time it takes to run it;
// but not for longer than the pictures of `feed` can wait, which then get the device's own answer.
void Device::Impl::make_room(const Feed* feed) {
  pump(Clock::now());
  while (upstream.away() > 0 && (upstream.away() >= window() || upstream.full(Clock::now()) ||
                                 upstream.earliest_deadline() < Clock::now() + 2 * busy)) {
    const Clock::time_point last = last_moment(feed);
    if (Clock::now() >= last) return;
    pump(std::min(last, upstream.earliest_deadline()));
  }
}

// When those that wait in `feed` must be begun for all of them to be in time.
Clock::time_point Device::Impl::last_moment(const Feed* feed) const {
  const Feed::Backlog backlog = feed == nullptr ? Feed::Backlog{} : feed->backlog();
  if (backlog.pictures == 0) return Clock::time_point::max();
  const auto pictures = static_cast<Clock::rep>(backlog.pictures);
  return backlog.since + options.deadline - kTimerMargin - 2 * pictures * busy;
}

void Device::Impl::await_turn(Clock::time_point turn) {
  while (Clock::now() < turn) {
    if (upstream.none())
      std::this_thread::sleep_until(turn);
    else
      pump(turn);
  }
}

// Waits for the next event, or until `wakeup` is readable, at most until `until`, and handles all
// events there are.
void Device::Impl::pump(Clock::time_point until, int wakeup) {
  if (upstream.none() && wakeup < 0) return;
  if (until > Clock::now()) {
    std::vector<Waitable> items;
    if (wakeup >= 0) items.push_back({.fd = wakeup});
    upstream.waitables(items);
    wait_readable(items, std::min(until, upstream.due()));
  }
  if (upstream.none()) return;
  const Clock::time_point now = Clock::now();
  std::vector<Settled> settled;
  upstream.service(now, settled);
  for (Settled& each : settled) settle(std::move(each), now);
  if (const auto audited = upstream.take_audited(); audited && auditor.take(*audited))
    say(LogLevel::kInfo, "audit: " + audit_text(auditor.counts()));
  if (auto told = upstream.take_refusal()) {
    refusal = std::move(told);
    throw_refusal();
  }
  if (!upstream.up()) return;
  refusal.reset();
  told_absent = false;
  if (!grace_ends) grace_ends = now;  // it was there: when it goes, nothing is waited for
  grace_ends = std::min(*grace_ends, now);
}

void Device::Impl::give(std::size_t index, Outcome outcome, Clock::time_point ready) {
  if (options.policy == Policy::kStrict && outcome.degraded != Reason::kNone) {
    outcome.answered = false;
    outcome.decision = {};
    outcome.probabilities.clear();
  }
  outcome.total_us = elapsed_us(ready, Clock::now());
  (*sink)(index, outcome);
}

Device::Device(std::span<const Stage> stages, const ModelId& model, const DeviceOptions& options,
               NextNodes next, Log log)
    : impl_(std::make_unique<Impl>(stages, model, options, std::move(next), std::move(log))) {}

Device::~Device() = default;

void Device::run(std::size_t count, const Source& source, const Sink& sink) {
  impl_->sink = &sink;
  try {
    impl_->run(count, source);
  } catch (...) {
    impl_->forget_all();
    throw;
  }
}

void Device::serve(Feed& feed, const Sink& sink) {
  impl_->sink = &sink;
  try {
    impl_->serve(feed);
  } catch (...) {
    impl_->forget_all();
    throw;
  }
}

std::uint64_t Device::late_answers() const { return impl_->upstream.unmatched(); }

AuditCounts Device::audits() const { return impl_->auditor.counts(); }

std::vector<LinkStatus> Device::links() const { return impl_->upstream.links(Clock::now()); }

}  // namespace offramp
