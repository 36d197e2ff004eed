#include "net/next_tier.h"

#include <algorithm>
#include <utility>

#include "net/elapsed.h"

namespace offramp {
namespace {

// Why nothing can be sent over a link in this state; kNone when it can.
Reason obstacle(LinkState state) {
  switch (state) {
    case LinkState::kUp:
      return Reason::kNone;
    case LinkState::kConnecting:
    case LinkState::kDown:
      return Reason::kDisconnected;
    case LinkState::kDraining:
      return Reason::kDraining;
    case LinkState::kMismatched:
      return Reason::kModelMismatch;
  }
  return Reason::kDisconnected;
}

}  // namespace

NextTier::NextTier(std::unique_ptr<Channel> channel, const WireModelId& model, int stage, Log log)
    : channel_(std::move(channel)),
      model_(model),
      stage_(stage),
      log_(std::move(log)),
      session_(random_session()) {}

Reason NextTier::hand_on(Verdict& own, Done& done, Clock::time_point now) {
  if (!channel_) return Reason::kNoNext;
  if (const Reason reason = obstacle(channel_->state()); reason != Reason::kNone) return reason;
  if (away_.size() >= static_cast<std::size_t>(channel_->window())) return Reason::kOverloaded;
  const auto budget = budget_for_next(now, done.job.answer_by, channel_->round_trip());
  if (budget <= Clock::duration::zero()) return Reason::kLate;
  if (done.job.hop + 1u >= kMaxHops) return Reason::kRefused;
  const RequestId id = make_request_id(session_, next_request_++);
  const bool sent = channel_->submit(Handoff{.request = id,
                                             .model = model_,
                                             .cut = static_cast<std::uint8_t>(stage_),
                                             .attempt = 0,
                                             .hop = static_cast<std::uint8_t>(done.job.hop + 1),
                                             .budget_us = to_us(budget),
                                             .tensor = std::move(done.carry)},
                                     own.hops[0].sent_bytes);
  if (!sent) return Reason::kDisconnected;
  away_.emplace(id, Away{.peer = done.job.peer,
                         .own = std::move(own),
                         .submitted = now,
                         .answer_by = done.job.answer_by});
  return Reason::kNone;
}

bool NextTier::forget(const Peer& peer, const RequestId& request) {
  return std::erase_if(away_, [&](const auto& each) {
           return each.second.own.request == request && each.second.peer == peer;
         }) > 0;
}

void NextTier::service(Clock::time_point now, std::vector<Answer>& answers) {
  if (!channel_) return;
  std::vector<LinkEvent> events;
  channel_->service(now, events);
  for (LinkEvent& event : events) handle(std::move(event), now, answers);
  for (auto it = away_.begin(); it != away_.end();) {
    const Request request = it++;
    if (now >= request->second.answer_by - kTimerMargin)
      answers.push_back(own_answer(request, Reason::kLate, now));
  }
}

void NextTier::handle(LinkEvent event, Clock::time_point now, std::vector<Answer>& answers) {
  if (auto* verdict = std::get_if<Verdict>(&event)) {
    const Request found = away_.find(verdict->request);
    if (found == away_.end())
      ++unmatched_;
    else
      answers.push_back(better_answer(found, std::move(*verdict), now));
  } else if (const auto* fault = std::get_if<Fault>(&event)) {
    const Request found = away_.find(fault->request);
    if (found == away_.end())
      ++unmatched_;
    else
      answers.push_back(own_answer(found, reason_of(fault->code), now));
  } else if (std::holds_alternative<LinkUp>(event)) {
    say(LogLevel::kInfo, "next tier connected: " + channel_->endpoint());
  } else if (const auto* down = std::get_if<LinkDown>(&event)) {
    say(LogLevel::kWarning, "next tier lost: " + down->why);
    give_up(Reason::kPeerLost, now, answers);
  } else if (const auto* refused = std::get_if<LinkRefused>(&event)) {
    say(LogLevel::kError, "next tier refused: " + refused->why);
  } else if (const auto* barred = std::get_if<LinkBarred>(&event)) {
    say(LogLevel::kError, "next tier barred: " + barred->why);
  }
}

void NextTier::give_up(Reason reason, Clock::time_point now, std::vector<Answer>& answers) {
  while (!away_.empty()) answers.push_back(own_answer(away_.begin(), reason, now));
}

Answer NextTier::own_answer(Request request, Reason reason, Clock::time_point now) {
  Away away = std::move(request->second);
  away_.erase(request);
  away.own.degraded = reason;
  away.own.hops[0].wait_us = elapsed_us(away.submitted, now);
  return {.peer = std::move(away.peer), .verdict = std::move(away.own)};
}

Answer NextTier::better_answer(Request request, Verdict verdict, Clock::time_point now) {
  Away away = std::move(request->second);
  away_.erase(request);
  Hop hop = away.own.hops[0];
  hop.wait_us = elapsed_us(away.submitted, now);
  verdict.request = away.own.request;
  if (verdict.hops.size() == kMaxHops) verdict.hops.pop_back();
  verdict.hops.insert(verdict.hops.begin(), hop);
  return {.peer = std::move(away.peer), .verdict = std::move(verdict)};
}

std::vector<LinkStatus> NextTier::links() const {
  if (!channel_) return {};
  return {{.endpoint = channel_->endpoint(),
           .state = channel_->state(),
           .away = away_.size(),
           .window = channel_->window(),
           .round_trip = channel_->round_trip()}};
}

void NextTier::waitables(std::vector<Waitable>& out) const {
  if (channel_) channel_->waitables(out);
}

Clock::time_point NextTier::due() const {
  Clock::time_point due = channel_ ? channel_->due() : Clock::time_point::max();
  for (const auto& [id, request] : away_) due = std::min(due, request.answer_by - kTimerMargin);
  return due;
}

}  // namespace offramp
