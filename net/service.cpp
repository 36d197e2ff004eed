#include "net/service.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "net/elapsed.h"

namespace offramp {
namespace {

// After DRAIN a peer says BYE when it has all its answers. One that has not, and is silent for so
// long, is not waited for.
constexpr std::chrono::milliseconds kDrainSilence{1000};

// Between the signs of life that the workers are asked for.
constexpr std::chrono::milliseconds kProbeInterval{1000};
// Links are copied under a lock, so not in every turn.
constexpr std::chrono::milliseconds kLinkReportInterval{100};
// Requests that can be here at once: those that wait, and those that are computed.
std::size_t room(std::span<const Stage> stages, const NodeOptions& options) {
  const Plan& plan = stages[static_cast<std::size_t>(options.first_stage)].plan();
  return static_cast<std::size_t>(options.queue_capacity) +
         static_cast<std::size_t>(options.workers) * static_cast<std::size_t>(plan.max_batch());
}

}  // namespace

Service::Service(std::span<const Stage> stages, const Admission& admission,
                 const WireModelId& model, const NodeOptions& options, NextNodes next,
                 Fronts& fronts, Telemetry& telemetry, Log log)
    : admission_(admission),
      model_(model),
      tier_(options.tier),
      policy_(options.policy),
      drain_(options.drain),
      fronts_(fronts),
      telemetry_(telemetry),
      log_(std::move(log)),
      credits_(static_cast<std::uint16_t>(options.window), room(stages, options)),
      next_(std::move(next), options.policy, model, options.first_stage + options.stage_count,
            log_),
      auditor_(options.audit),
      workers_(stages, options) {}

void Service::waitables(std::vector<Waitable>& out) const {
  next_.waitables(out);
  out.push_back({.fd = workers_.results_fd()});
}

Clock::time_point Service::due(Clock::time_point now) const {
  const std::chrono::milliseconds longest{draining_ ? 10 : 1000};
  return std::min(now + longest, next_.due());
}

// ---- messages of peers ----

void Service::take(const Peer& peer, std::variant<Message, Malformed> received,
                   Clock::time_point now) {
  if (auto* message = std::get_if<Message>(&received))
    handle(peer, std::move(*message), now);
  else
    handle(peer, std::get<Malformed>(received), now);
}

void Service::handle(const Peer& peer, Message message, Clock::time_point now) {
  if (const auto* hello = std::get_if<Hello>(&message)) {
    handle(peer, *hello, now);
    return;
  }
  Session* const session = sessions_.heard(peer, now);
  if (session != nullptr) last_exchange_ = now;
  if (std::holds_alternative<Bye>(message)) {
    sessions_.close(peer);
  } else if (const auto* handoff = std::get_if<Handoff>(&message)) {
    if (session != nullptr)
      handle(peer, *session, *handoff, now);
    else
      fault(peer, handoff->request, FaultCode::kNoSession, "say HELLO first");
  } else if (const auto* ping = std::get_if<Ping>(&message)) {
    if (session == nullptr)
      fault(peer, {}, FaultCode::kNoSession, "say HELLO first");
    else
      knock(peer, *ping, now);
  } else if (const auto* cancel = std::get_if<Cancel>(&message)) {
    handle(peer, *cancel);
  } else {
    handle(peer, Malformed::kType, now);
  }
}

void Service::handle(const Peer& peer, const Hello& hello, Clock::time_point now) {
  if (draining_) {
    fault(peer, {}, FaultCode::kDraining, "shutting down");
  } else if (std::optional<Refusal> refusal = admission_.refusal(hello)) {
    if (const auto told = refusals_.pass("a peer was refused: " + refusal->text, now))
      say(LogLevel::kWarning, *told);
    fault(peer, {}, refusal->code, std::move(refusal->text));
  } else if (!sessions_.has_room_for(peer)) {
    fault(peer, {}, FaultCode::kOverloaded, "too many peers");
  } else {
    knock(peer, hello, now);
  }
}

// With very many knocks waiting there is no answer: a node whose workers are stuck is silent.
void Service::knock(const Peer& peer, const std::variant<Hello, Ping, Probe>& message,
                    Clock::time_point now) {
  static_cast<void>(workers_.push(Knock{.peer = peer, .message = message, .arrived = now}));
}

void Service::handle(const Peer& peer, Session& session, const Handoff& handoff,
                     Clock::time_point now) {
  if (draining_) {
    fault(peer, handoff.request, FaultCode::kDraining, "shutting down");
    return;
  }
  credits_.used(session, now);
  // Asked first: unpacking a tensor that is not taken would cost the loop more than the answer.
  if (const char* why = no_room(peer, session, handoff, now)) {
    overloaded(peer, handoff.request, why);
    return;
  }
  std::variant<Job, Refusal> admitted = admission_.job(peer, handoff, now);
  if (auto* refusal = std::get_if<Refusal>(&admitted)) {
    fault(peer, handoff.request, refusal->code, std::move(refusal->text));
  } else {
    Job& job = std::get<Job>(admitted);
    job.audit = auditor_.draws();
    workers_.push(std::move(job));
    ++in_work_;
    ++here_[peer];
    telemetry_.accepted(handoff.tensor);
  }
}

const char* Service::no_room(const Peer& peer, const Session& session, const Handoff& handoff,
                             Clock::time_point now) {
  const auto found = here_.find(peer);
  if (found != here_.end() && !credits_.allows(session, found->second, now))
    return "the window is full";
  return workers_.obstacle(peer, now + std::chrono::microseconds(handoff.budget_us), now);
}

// What is being computed is answered all the same: that costs nothing any more.
void Service::handle(const Peer& peer, const Cancel& cancel) {
  const bool waited = workers_.cancel(peer, cancel.request);
  if (!waited && !next_.forget(peer, cancel.request)) return;
  if (waited) --in_work_;
  leave(peer);
  telemetry_.cancelled();
}

void Service::leave(const Peer& peer) {
  const auto found = here_.find(peer);
  if (found != here_.end() && --found->second == 0) here_.erase(found);
}

void Service::handle(const Peer& peer, Malformed reason, Clock::time_point now) {
  telemetry_.malformed(reason);
  say(LogLevel::kDebug, std::string("malformed message dropped: ") + malformed_name(reason));
  if (reason == Malformed::kVersion)
    fault(peer, {}, FaultCode::kVersion, "wanted protocol version " + std::to_string(kWireMajor));
  if (!fronts_.strike(peer, now)) return;
  telemetry_.struck_out();
  say(LogLevel::kDebug, "a peer is not heard any more: its messages were malformed three times");
  sessions_.close(peer);
}

void Service::review_sessions(Clock::time_point now) {
  sessions_.expire(now);
  std::vector<Credits::Change> changes;
  credits_.review(sessions_, now, changes);
  for (const Credits::Change& change : changes) send(change.peer, Credit{.window = change.window});
}

// ---- what comes back ----

void Service::take_results(Clock::time_point now) {
  while (std::optional<Workers::Result> result = workers_.pop_result())
    std::visit([this, now](auto& r) { finish(std::move(r), now); }, *result);
  std::vector<Answer> answers;
  next_.service(now, answers);
  if (out_of_time(now)) next_.give_up(Reason::kLate, now, answers);
  if (!answers.empty()) last_exchange_ = now;
  answer(std::move(answers));
  if (const auto audited = next_.take_audited(); audited && auditor_.take(*audited))
    say(LogLevel::kInfo, "audit: " + audit_text(auditor_.counts()));
  telemetry_.set_unmatched(next_.unmatched());
}

void Service::report(Clock::time_point now) {
  telemetry_.turned(now);
  telemetry_.set(Load{.queued = workers_.queued(),
                      .in_work = in_work_,
                      .away = next_.away(),
                      .sessions = sessions_.size()});
  if (now >= next_link_report_) {
    telemetry_.set(next_.links(), auditor_.counts());
    next_link_report_ = now + kLinkReportInterval;
  }
  if (probing_ || now < next_probe_) return;
  probing_ = workers_.push(Knock{.peer = {}, .message = Probe{}, .arrived = now});
  if (probing_) telemetry_.workers_asked(now);
}

void Service::finish(Knock knock, Clock::time_point now) {
  if (std::holds_alternative<Probe>(knock.message)) {
    probing_ = false;
    next_probe_ = now + kProbeInterval;
    telemetry_.workers_answered();
    return;
  }
  if (const auto* ping = std::get_if<Ping>(&knock.message)) {
    send(knock.peer, Pong{.sequence = ping->sequence,
                          .queue_depth = static_cast<std::uint32_t>(workers_.queued()),
                          .held_us = elapsed_us(knock.arrived, now),
                          .service_us = to_us(workers_.pace()),
                          .workers = static_cast<std::uint16_t>(workers_.threads())});
    return;
  }
  if (draining_) return;
  const Hello& hello = std::get<Hello>(knock.message);
  Session& session = sessions_.open(knock.peer, now);
  session.minor = hello.minor;
  send(knock.peer, Welcome{.session = hello.session,
                           .model = model_,
                           .cut = hello.cut,
                           .shape = hello.shape,
                           .tier = tier_,
                           .window = credits_.welcome(session),
                           .pictures = admission_.takes_pictures()});
}

void Service::finish(Done done, Clock::time_point now) {
  --in_work_;
  last_exchange_ = now;
  telemetry_.dequeued(done.hop.queue_us);
  if (done.fate == Fate::kExpired) {
    leave(done.job.peer);
    telemetry_.expired();
    fault(done.job.peer, done.job.request, FaultCode::kExpired, "the budget had run out");
    return;
  }
  if (done.fate == Fate::kDisplaced) {
    leave(done.job.peer);
    overloaded(done.job.peer, done.job.request, "the queue is full, and others have less of it");
    return;
  }
  if (done.batch > 0) telemetry_.batched(done.batch);
  telemetry_.computed(done.hop, done.decision);
  Verdict own{.request = done.job.request,
              .decision = done.decision,
              .tier = tier_,
              .degraded = Reason::kNone,
              .hops = {done.hop},
              .probabilities = std::move(done.probabilities)};
  if (!done.answers) {
    const DType dtype = done.carry.dtype;
    const Codec codec = done.carry.codec;
    const std::size_t bytes = done.carry.payload.size();
    const Reason obstacle = next_.hand_on(own, done, now);
    if (obstacle == Reason::kNone) {
      telemetry_.handed_on(dtype, codec, bytes);
      return;
    }
    own.degraded = obstacle;
  }
  leave(done.job.peer);
  answer(done.job.peer, std::move(own));
  const bool carried = done.answers && !done.carry.payload.empty();
  if (carried && done.job.audit && !draining_) next_.audit(done.decision, done, now);
}

// ---- the end ----

void Service::begin_drain(Clock::time_point now) {
  draining_ = true;
  telemetry_.draining();
  drain_began_ = last_exchange_ = now;
  say(LogLevel::kInfo,
      "stopping: " + std::to_string(in_work_ + next_.away()) + " requests to finish");
  // Not send(): a peer that has gone without BYE misses nothing.
  for (const Peer& peer : sessions_.peers())
    if (!fronts_.send(peer, Drain{})) sessions_.close(peer);
}

bool Service::out_of_time(Clock::time_point now) const {
  return draining_ && now - drain_began_ >= drain_;
}

bool Service::drained(Clock::time_point now) const {
  if ((in_work_ > 0 || next_.away() > 0) && !out_of_time(now)) return false;
  return sessions_.empty() || now - last_exchange_ >= kDrainSilence ||
         now - drain_began_ >= drain_ + kDrainSilence;
}

void Service::end_drain() {
  telemetry_.set_unanswered(in_work_);
  telemetry_.set(next_.links(), auditor_.counts());
}

// ---- to peers ----

void Service::answer(const Peer& peer, Verdict verdict) {
  if (policy_ == Policy::kStrict && verdict.degraded != Reason::kNone) {
    fault(
        peer, verdict.request, fault_of(verdict.degraded),
        std::string("the whole cascade's answer cannot be had: ") + reason_name(verdict.degraded));
    return;
  }
  if (!std::isfinite(verdict.decision.entropy) || !std::isfinite(verdict.decision.probability)) {
    fault(peer, verdict.request, FaultCode::kNoAnswer, "the exit's numbers are not finite");
    return;
  }
  telemetry_.answered(verdict);
  send(peer, std::move(verdict));
}

void Service::answer(std::vector<Answer> answers) {
  for (Answer& each : answers) {
    leave(each.peer);
    answer(each.peer, std::move(each.verdict));
  }
}

void Service::fault(const Peer& peer, const RequestId& request, FaultCode code, std::string text) {
  send(peer, Fault{.request = request, .code = code, .model = model_, .text = std::move(text)});
}

void Service::overloaded(const Peer& peer, const RequestId& request, std::string text) {
  send(peer, Fault{.request = request,
                   .code = FaultCode::kOverloaded,
                   .model = model_,
                   .text = std::move(text),
                   .retry_after_us = to_us(workers_.backlog())});
}

void Service::send(const Peer& peer, Fault fault) {
  telemetry_.faulted(fault.code);
  send(peer, Message(std::move(fault)));
}

void Service::send(const Peer& peer, Message message) {
  if (fronts_.send(peer, std::move(message))) return;
  telemetry_.undeliverable();
  sessions_.close(peer);
}

}  // namespace offramp
