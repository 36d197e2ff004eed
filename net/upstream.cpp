#include "net/upstream.h"

#include <algorithm>

#include "net/elapsed.h"

namespace offramp {
namespace {

using std::chrono::microseconds;

// What another node may do better.
bool worth_another_try(FaultCode code) {
  return code == FaultCode::kOverloaded || code == FaultCode::kDraining ||
         code == FaultCode::kNoSession;
}

// Whose fault it is: the sample's own, or that of a node which has said when to come back or that
// it leaves, is not held against the node.
bool blames_node(const Fault& fault) {
  switch (fault.code) {
    case FaultCode::kOverloaded:
      return fault.retry_after_us == 0;
    case FaultCode::kDraining:
    case FaultCode::kBadTensor:
    case FaultCode::kNoAnswer:
      return false;
    case FaultCode::kVersion:
    case FaultCode::kModelMismatch:
    case FaultCode::kNoSession:
    case FaultCode::kExpired:
      return true;
  }
  return true;
}

}  // namespace

Upstream::Upstream(NextNodes nodes, Policy policy, const WireModelId& model, int stage, Log log)
    : policy_(policy),
      model_(model),
      stage_(stage),
      log_(std::move(log)),
      replicas_(policy == Policy::kLocalOnly ? NextNodes{} : std::move(nodes), log_),
      session_(random_session()) {}

// ---- away ----

Clock::duration Upstream::usable(Clock::time_point answer_by, Clock::time_point now) const {
  const Clock::duration left = budget_for_next(now, answer_by, microseconds{0});
  return policy_ == Policy::kAnswerFirst ? left / 2 : left;
}

Reason Upstream::obstacle(Clock::time_point answer_by, Clock::time_point now) const {
  if (none()) return Reason::kNoNext;
  return replicas_.obstacle(usable(answer_by, now), now);
}

Reason Upstream::hand_on(Request& request, Clock::time_point now) {
  if (none()) return Reason::kNoNext;
  if (request.hop + 1u >= kMaxHops) return Reason::kRefused;
  const Clock::duration time = usable(request.answer_by, now);
  Replica* const replica = choose(request, now, nullptr);
  if (replica == nullptr) {
    const Reason reason = replicas_.obstacle(time, now);
    // Those that could answer take no pictures.
    return reason == Reason::kNone ? Reason::kOverloaded : reason;
  }
  const RequestId id = make_request_id(session_, next_request_++);
  const DType dtype = request.tensor.dtype;
  Away away{.request = std::move(request), .submitted = now, .dtype = dtype};
  if (!send(id, away, *replica, now)) {
    request = std::move(away.request);
    return Reason::kDisconnected;
  }
  // Only another node could want it again.
  if (policy_ == Policy::kAnswerFirst || (replicas_.size() == 1 && !replicas_.may_grow()))
    away.request.tensor = {};
  deadlines_.emplace(away.request.answer_by, id);
  tickets_.emplace(away.request.ticket, id);
  away_.emplace(id, std::move(away));
  return Reason::kNone;
}

Replica* Upstream::choose(const Request& request, Clock::time_point now, const Replica* except) {
  return replicas_.choose(usable(request.answer_by, now), now, except,
                          request.tensor.dtype == DType::kPixels);
}

bool Upstream::submit(const RequestId& id, Request& request, DType dtype, std::uint8_t attempt,
                      Replica& replica, Clock::time_point now) {
  const Clock::duration whole = budget_for_next(now, request.answer_by, microseconds{0});
  // Of a way that was longer than there is time, this one is to find out whether it still is.
  const Clock::duration way = std::min<Clock::duration>(replica.channel().round_trip(), whole / 2);
  Handoff handoff{.request = id,
                  .model = model_,
                  .cut = static_cast<std::uint8_t>(dtype == DType::kPixels ? 0 : stage_),
                  .attempt = attempt,
                  .hop = request.hop,
                  .budget_us = to_us(whole - way),
                  .tensor = std::move(request.tensor)};
  std::uint32_t bytes = 0;
  const bool sent = replica.channel().submit(handoff, bytes);
  request.tensor = std::move(handoff.tensor);
  if (sent) request.own.hops[0].sent_bytes += bytes;
  return sent;
}

bool Upstream::send(const RequestId& id, Away& away, Replica& replica, Clock::time_point now) {
  if (audit_ && audit_->replica == replica.id() && !replica.has_room_to_spare(now))
    call_back_audit();
  if (!submit(id, away.request, away.dtype, away.number, replica, now)) return false;
  away.attempt = {.replica = replica.id(), .probe = replica.sent(now), .sent = now};
  return true;
}

bool Upstream::try_again(Entry entry, Clock::time_point now) {
  Away& away = entry->second;
  if (policy_ == Policy::kAnswerFirst || away.number > 0 || away.request.tensor.payload.empty())
    return false;
  Replica* const failed = replicas_.find(away.attempt.replica);
  Replica* const other = choose(away.request, now, failed);
  if (other == nullptr || !retries_.take()) return false;
  away.number = 1;
  away.before = away.attempt.replica;
  if (!send(entry->first, away, *other, now)) return false;
  away.request.tensor = {};
  if (failed != nullptr) failed->retried();
  return true;
}

// ---- audits ----

bool Upstream::audit(Request request, Clock::time_point now) {
  if (audit_ || audited_ || none() || request.hop + 1u >= kMaxHops) return false;
  const DType dtype = request.tensor.dtype;
  Replica* const replica =
      replicas_.choose_to_spare(usable(request.answer_by, now), now, dtype == DType::kPixels);
  if (replica == nullptr) return false;
  const RequestId id = make_request_id(session_, next_request_++);
  if (!submit(id, request, dtype, 0, *replica, now)) return false;
  audit_ = Audit{.id = id,
                 .replica = replica->id(),
                 .given = request.own.decision,
                 .sent_bytes = request.own.hops[0].sent_bytes,
                 .until = request.answer_by - kTimerMargin};
  last_audit_ = id;
  return true;
}

bool Upstream::is_audit(const Replica& replica, const RequestId& id) const {
  return audit_ && audit_->id == id && audit_->replica == replica.id();
}

void Upstream::end_audit(std::optional<Verdict> check) {
  // Another tier's own answer, given for want of a better one, is no check.
  if (check && check->degraded != Reason::kNone) check.reset();
  audited_ =
      Audited{.given = audit_->given, .check = std::move(check), .sent_bytes = audit_->sent_bytes};
  audit_.reset();
}

void Upstream::call_back_audit() {
  if (Replica* const replica = replicas_.find(audit_->replica))
    replica->channel().cancel(audit_->id);
  end_audit(std::nullopt);
}

// ---- what comes back ----

void Upstream::service(Clock::time_point now, std::vector<Settled>& settled) {
  std::vector<Replicas::Event> events;
  replicas_.service(now, events);
  for (auto& [replica, event] : events) handle(*replica, std::move(event), now, settled);
  if (audit_ && now >= audit_->until) call_back_audit();
  while (!deadlines_.empty() && now >= deadlines_.begin()->first - kTimerMargin) {
    const Entry entry = away_.find(deadlines_.begin()->second);
    const Attempt attempt = entry->second.attempt;
    if (Replica* const replica = replicas_.find(attempt.replica)) {
      replica->channel().cancel(entry->first);
      replica->late(attempt.probe, now - attempt.sent, now, replicas_.random());
    }
    settle_own(entry, Reason::kLate, now, settled);
  }
}

void Upstream::handle(Replica& replica, LinkEvent event, Clock::time_point now,
                      std::vector<Settled>& settled) {
  if (auto* verdict = std::get_if<Verdict>(&event)) {
    answered(replica, std::move(*verdict), now, settled);
  } else if (const auto* fault = std::get_if<Fault>(&event)) {
    refused(replica, *fault, now, settled);
  } else if (std::holds_alternative<LinkUp>(event)) {
    replica.greeted(now);
    say(LogLevel::kInfo, "next tier connected: " + replica.address());
  } else if (const auto* down = std::get_if<LinkDown>(&event)) {
    lost(replica, *down, now, settled);
  } else if (auto* refusal = std::get_if<LinkRefused>(&event)) {
    if (replicas_.all(LinkState::kMismatched))
      refusal_ = std::move(*refusal);
    else
      say(LogLevel::kError, "next tier refused: " + refusal->why);
  } else if (const auto* barred = std::get_if<LinkBarred>(&event)) {
    say(LogLevel::kError, "next tier barred: " + barred->why);
  }
}

void Upstream::answered(Replica& replica, Verdict verdict, Clock::time_point now,
                        std::vector<Settled>& settled) {
  if (is_audit(replica, verdict.request)) {
    end_audit(std::move(verdict));
    return;
  }
  const Entry entry = away_.find(verdict.request);
  const bool asked = entry != away_.end() && (entry->second.attempt.replica == replica.id() ||
                                              entry->second.before == replica.id());
  if (!asked) {
    unmatched_ += verdict.request == last_audit_ ? 0 : 1;
    return;
  }
  retries_.succeeded();
  if (entry->second.attempt.replica == replica.id())
    replica.answered(verdict);
  else
    call_back(entry);  // the first node has answered after all
  Away away = take(entry);
  Hop hop = away.request.own.hops[0];
  hop.wait_us = elapsed_us(away.submitted, now);
  verdict.request = away.request.own.request;
  if (verdict.hops.size() == kMaxHops) verdict.hops.pop_back();
  verdict.hops.insert(verdict.hops.begin(), hop);
  settled.push_back({.ticket = away.request.ticket,
                     .verdict = std::move(verdict),
                     .answer_by = away.request.answer_by,
                     .dtype = away.dtype});
}

void Upstream::refused(Replica& replica, const Fault& fault, Clock::time_point now,
                       std::vector<Settled>& settled) {
  if (is_audit(replica, fault.request)) {
    end_audit(std::nullopt);
    return;
  }
  if (fault.code == FaultCode::kOverloaded && fault.retry_after_us > 0)
    replica.pause_until(now + std::min<Clock::duration>(microseconds(fault.retry_after_us),
                                                        Breaker::kLongestPause));
  const Entry entry = away_.find(fault.request);
  if (entry == away_.end() || entry->second.attempt.replica != replica.id()) {
    unmatched_ += fault.request == last_audit_ ? 0 : 1;
    return;
  }
  const bool probe = entry->second.attempt.probe;
  const Reason reason = reason_of(fault.code);
  if (blames_node(fault))
    replica.failed(reason, probe, now, replicas_.random());
  else
    replica.undecided(probe);
  if (worth_another_try(fault.code) && try_again(entry, now)) return;
  settle_own(entry, reason, now, settled);
}

void Upstream::lost(Replica& replica, const LinkDown& down, Clock::time_point now,
                    std::vector<Settled>& settled) {
  say(LogLevel::kWarning, "next tier lost: " + down.why);
  replicas_.lost(replica, now);
  if (audit_ && audit_->replica == replica.id()) end_audit(std::nullopt);
  std::vector<RequestId> there;
  for (const auto& [id, away] : away_)
    if (away.attempt.replica == replica.id()) there.push_back(id);
  for (const RequestId& id : there)
    replica.failed(Reason::kPeerLost, away_.at(id).attempt.probe, now, replicas_.random());
  if (down.silent) replica.silent(now, replicas_.random());
  for (const RequestId& id : there) {
    const Entry entry = away_.find(id);
    if (!try_again(entry, now)) settle_own(entry, Reason::kPeerLost, now, settled);
  }
}

// Tells the node that has it that nobody waits for its answer.
void Upstream::call_back(Entry entry) {
  const Attempt attempt = entry->second.attempt;
  Replica* const replica = replicas_.find(attempt.replica);
  if (replica == nullptr) return;
  replica->channel().cancel(entry->first);
  replica->undecided(attempt.probe);
}

bool Upstream::cancel(std::uint64_t ticket) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end()) return false;
  const Entry entry = away_.find(found->second);
  call_back(entry);
  take(entry);
  return true;
}

void Upstream::give_up(Reason reason, Clock::time_point now, std::vector<Settled>& settled) {
  while (!away_.empty()) {
    call_back(away_.begin());
    settle_own(away_.begin(), reason, now, settled);
  }
  if (audit_) call_back_audit();
}

void Upstream::settle_own(Entry entry, Reason reason, Clock::time_point now,
                          std::vector<Settled>& settled) {
  Away away = take(entry);
  Verdict& own = away.request.own;
  own.degraded = reason;
  own.hops[0].wait_us = elapsed_us(away.submitted, now);
  settled.push_back({.ticket = away.request.ticket,
                     .verdict = std::move(own),
                     .answer_by = away.request.answer_by,
                     .dtype = away.dtype});
}

Upstream::Away Upstream::take(Entry entry) {
  Away away = std::move(entry->second);
  deadlines_.erase({away.request.answer_by, entry->first});
  tickets_.erase(away.request.ticket);
  away_.erase(entry);
  return away;
}

// ---- time ----

Clock::time_point Upstream::earliest_deadline() const {
  return deadlines_.empty() ? Clock::time_point::max() : deadlines_.begin()->first - kTimerMargin;
}

Clock::time_point Upstream::due() const {
  const Clock::time_point audited = audit_ ? audit_->until : Clock::time_point::max();
  return std::min({replicas_.due(), earliest_deadline(), audited});
}

}  // namespace offramp
