#include "net/next_tier.h"

#include <algorithm>
#include <utility>

namespace offramp {

NextTier::NextTier(NextNodes nodes, Policy policy, const WireModelId& model, int stage, Log log)
    : log_(log), upstream_(std::move(nodes), policy, model, stage, std::move(log)) {}

Reason NextTier::hand_on(Verdict& own, Done& done, Clock::time_point now) {
  Asker asker{.peer = done.job.peer, .request = own.request};
  Request request{.ticket = next_ticket_,
                  .own = std::move(own),
                  .tensor = std::move(done.carry),
                  .hop = static_cast<std::uint8_t>(done.job.hop + 1),
                  .answer_by = done.job.answer_by};
  const Reason reason = upstream_.hand_on(request, now);
  if (reason == Reason::kNone)
    askers_.emplace(next_ticket_++, std::move(asker));
  else
    own = std::move(request.own);
  return reason;
}

void NextTier::service(Clock::time_point now, std::vector<Answer>& answers) {
  std::vector<Settled> settled;
  upstream_.service(now, settled);
  if (const auto refusal = upstream_.take_refusal(); refusal && log_)
    log_(LogLevel::kError, "next tier refused: " + refusal->why);
  give(std::move(settled), answers);
}

bool NextTier::forget(const Peer& peer, const RequestId& request) {
  const auto found = std::ranges::find_if(askers_, [&](const auto& entry) {
    return entry.second.request == request && entry.second.peer == peer;
  });
  if (found == askers_.end()) return false;
  upstream_.cancel(found->first);
  askers_.erase(found);
  return true;
}

void NextTier::give_up(Reason reason, Clock::time_point now, std::vector<Answer>& answers) {
  std::vector<Settled> settled;
  upstream_.give_up(reason, now, settled);
  give(std::move(settled), answers);
}

void NextTier::give(std::vector<Settled> settled, std::vector<Answer>& answers) {
  for (Settled& each : settled) {
    auto asker = askers_.extract(each.ticket);
    answers.push_back({.peer = std::move(asker.mapped().peer), .verdict = std::move(each.verdict)});
  }
}

}  // namespace offramp
