#include "net/next_tier.h"

#include <algorithm>
#include <utility>

#include "net/elapsed.h"

namespace offramp {
namespace {

// As a device waits for its own next tier.
constexpr std::chrono::milliseconds kMeet{500};

// Nobody waits for it.
constexpr std::chrono::seconds kAuditTime{1};

// A peer may say anything; what is too much stays too much.
std::uint8_t next_hop(const Job& job) {
  return static_cast<std::uint8_t>(std::min(job.hop + 1, 255));
}

// The caller's own answer to a request that was never sent.
Settled unsent(Request request, Reason reason) {
  request.own.degraded = reason;
  return {
      .ticket = request.ticket, .verdict = std::move(request.own), .answer_by = request.answer_by};
}

}  // namespace

NextTier::NextTier(NextNodes nodes, Policy policy, const WireModelId& model, int stage, Log log)
    : log_(log), upstream_(std::move(nodes), policy, model, stage, std::move(log)) {}

Reason NextTier::hand_on(Verdict& own, Done& done, Clock::time_point now) {
  Asker asker{.peer = done.job.peer, .request = own.request};
  Request request{.ticket = next_ticket_,
                  .own = std::move(own),
                  .tensor = std::move(done.carry),
                  .hop = next_hop(done.job),
                  .answer_by = done.job.answer_by};
  const Reason reason = upstream_.hand_on(request, now);
  const bool waits = reason == Reason::kDisconnected && may_appear(now);
  if (reason != Reason::kNone && !waits) {
    own = std::move(request.own);
    return reason;
  }
  tickets_.emplace(std::pair(asker.peer, asker.request), next_ticket_);
  askers_.emplace(next_ticket_++, std::move(asker));
  if (waits) waiting_.push_back(std::move(request));
  return Reason::kNone;
}

bool NextTier::audit(const Decision& own, Done& done, Clock::time_point now) {
  return upstream_.audit({.own = {.decision = own, .hops = {Hop{}}},
                          .tensor = std::move(done.carry),
                          .hop = next_hop(done.job),
                          .answer_by = now + kAuditTime},
                         now);
}

bool NextTier::may_appear(Clock::time_point now) {
  if (met_) return false;
  if (!meet_by_) meet_by_ = now + kMeet;
  return now < *meet_by_;
}

Clock::time_point NextTier::waits_until(const Request& request) const {
  return std::min(*meet_by_, request.answer_by - kTimerMargin);
}

void NextTier::send_waiting(Clock::time_point now, std::vector<Settled>& settled) {
  std::vector<Request> still;
  for (Request& request : std::exchange(waiting_, {})) {
    if (!met_ && now < waits_until(request)) {
      still.push_back(std::move(request));
    } else if (const Reason reason = upstream_.hand_on(request, now); reason != Reason::kNone) {
      settled.push_back(unsent(std::move(request), reason));
    }
  }
  waiting_ = std::move(still);
}

Clock::time_point NextTier::due() const {
  Clock::time_point due = upstream_.due();
  for (const Request& request : waiting_) due = std::min(due, waits_until(request));
  return due;
}

void NextTier::service(Clock::time_point now, std::vector<Answer>& answers) {
  std::vector<Settled> settled;
  upstream_.service(now, settled);
  met_ = met_ || upstream_.up();
  if (!waiting_.empty()) send_waiting(now, settled);
  if (const auto refusal = upstream_.take_refusal(); refusal && log_)
    log_(LogLevel::kError, "next tier refused: " + refusal->why);
  give(std::move(settled), answers);
}

bool NextTier::forget(const Peer& peer, const RequestId& request) {
  const auto found = tickets_.find({peer, request});
  if (found == tickets_.end()) return false;
  const std::uint64_t ticket = found->second;
  if (!upstream_.cancel(ticket))
    std::erase_if(waiting_, [&](const Request& each) { return each.ticket == ticket; });
  take(ticket);
  return true;
}

void NextTier::give_up(Reason reason, Clock::time_point now, std::vector<Answer>& answers) {
  std::vector<Settled> settled;
  upstream_.give_up(reason, now, settled);
  for (Request& request : std::exchange(waiting_, {}))
    settled.push_back(unsent(std::move(request), reason));
  give(std::move(settled), answers);
}

Peer NextTier::take(std::uint64_t ticket) {
  Asker asker = std::move(askers_.extract(ticket).mapped());
  // A peer may have used an id twice: the other one is still under way then.
  const auto found = tickets_.find({asker.peer, asker.request});
  if (found != tickets_.end() && found->second == ticket) tickets_.erase(found);
  return std::move(asker.peer);
}

void NextTier::give(std::vector<Settled> settled, std::vector<Answer>& answers) {
  for (Settled& each : settled)
    answers.push_back({.peer = take(each.ticket), .verdict = std::move(each.verdict)});
}

}  // namespace offramp
