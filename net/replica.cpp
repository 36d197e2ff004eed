#include "net/replica.h"

#include <algorithm>

namespace offramp {
namespace {

using std::chrono::microseconds;

// After so long without a request, what was measured before says little.
constexpr std::chrono::seconds kStale{1};
// Beyond any deadline, which is a day at most; what a peer says of its queue and pace may come to
// more than any clock holds.
constexpr double kLongestUs = 48 * 3600e6;

}  // namespace

Reason Replica::obstacle(Clock::time_point now) const {
  switch (channel_->state()) {
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
  if (leaving_) return Reason::kDraining;
  if (now < not_before_) return Reason::kOverloaded;
  if (!breaker_.admits(now)) return breaker_.why();
  const bool room = away_ < static_cast<std::size_t>(std::max(0, channel_->window()));
  return room ? Reason::kNone : Reason::kOverloaded;
}

bool Replica::full(Clock::time_point now) const {
  return channel_->state() == LinkState::kUp && !leaving_ && now >= not_before_ &&
         breaker_.admits(now) && channel_->window() > 0 &&
         away_ >= static_cast<std::size_t>(channel_->window());
}

bool Replica::has_room_to_spare(Clock::time_point now) const {
  return obstacle(now) == Reason::kNone && breaker_.state(now) == BreakerState::kClosed &&
         2 * (away_ + 1) <= static_cast<std::size_t>(channel_->window());
}

microseconds Replica::service() const {
  const LinkLoad load = channel_->load();
  return load.workers > 0 && load.service.count() > 0 ? load.service : measured_;
}

// Since then the workers there have had time for some of them.
double Replica::queue_at(Clock::time_point now) const {
  const LinkLoad load = channel_->load();
  if (load.workers <= 0 || load.service.count() <= 0) return 0.0;
  const bool newer = load.at > queued_at_;
  const double queue = newer ? load.queue_depth : queue_;
  const std::chrono::duration<double> passed = now - (newer ? load.at : queued_at_);
  const std::chrono::duration<double> service = load.service;
  return std::max(0.0, queue - passed / service * load.workers);
}

microseconds Replica::predicted(Clock::time_point now) const {
  const LinkLoad load = channel_->load();
  // Without its pace, what was measured has the time in the queue in it.
  const double waiting = queue_at(now) / std::max(1, load.workers);
  const double work = (waiting + 1.0) * static_cast<double>(service().count());
  return channel_->round_trip() +
         microseconds(static_cast<std::int64_t>(std::min(work, kLongestUs)));
}

bool Replica::overlooked(Clock::time_point now) const {
  return away_ == 0 && now - last_sent_ >= kStale;
}

bool Replica::fits(Clock::duration time, Clock::time_point now) const {
  if (time <= Clock::duration::zero()) return false;
  return predicted(now) < time || overlooked(now);
}

bool Replica::sent(Clock::time_point now) {
  queue_ = queue_at(now) + 1.0;
  queued_at_ = last_sent_ = now;
  ++away_;
  ++sent_;
  return breaker_.sent();
}

// TCP's smoothing (RFC 6298): an eighth of each new sample.
void Replica::measured(microseconds sample) {
  measured_ = measured_.count() == 0 ? sample : (7 * measured_ + sample) / 8;
}

void Replica::answered(const Verdict& verdict) {
  --away_;
  ++answered_;
  breaker_.succeeded();
  // Its own time alone: if it waits for the tier after it, it answers in time by itself.
  if (verdict.hops.empty()) return;
  const Hop& hop = verdict.hops.front();
  measured(microseconds{hop.queue_us} + microseconds{hop.compute_us});
}

void Replica::failed(Reason why, bool probe, Clock::time_point now, std::mt19937_64& random) {
  --away_;
  ++failed_;
  breaker_.failed(why, probe, now, random);
}

void Replica::undecided(bool probe) {
  --away_;
  breaker_.undecided(probe);
}

void Replica::late(bool probe, Clock::duration time, Clock::time_point now,
                   std::mt19937_64& random) {
  // At least so long: nothing to lower what is known with.
  measured_ = std::max(measured_, std::chrono::duration_cast<microseconds>(time));
  failed(Reason::kLate, probe, now, random);
}

void Replica::greeted(Clock::time_point now) {
  breaker_.greeted(now);
  not_before_ = {};
  measured_ = {};
  queue_ = 0.0;
  last_sent_ = now;
}

void Replica::look_at_link(Clock::time_point now) {
  const microseconds round_trip = channel_->round_trip();
  if (2 * round_trip < round_trip_) breaker_.greeted(now);
  round_trip_ = round_trip;
}

LinkStatus Replica::status(Clock::time_point now) const {
  return {.endpoint = address(),
          .state = channel_->state(),
          .breaker = breaker_.state(now),
          .away = away_,
          .window = channel_->window(),
          .round_trip = channel_->round_trip(),
          .service = service(),
          .sent = sent_,
          .answered = answered_,
          .failed = failed_,
          .retried = retried_};
}

}  // namespace offramp
