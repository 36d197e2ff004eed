#include "net/fair_queue.h"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace offramp {

std::string holder_of(const Peer& peer) {
  // A key is text of 40 characters, so that no connection is taken for one.
  return peer.key.empty() ? std::to_string(peer.cable) + ":" + peer.routing_id : peer.key;
}

std::size_t FairQueue::held_by(const std::string& holder) const {
  const auto found = by_holder_.find(holder);
  return found == by_holder_.end() ? 0 : found->second->jobs.size();
}

FairQueue::Lanes::iterator FairQueue::fullest() {
  return std::ranges::max_element(lanes_, {}, [](const Lane& lane) { return lane.jobs.size(); });
}

bool FairQueue::refuses(const Peer& peer) const {
  if (!full()) return false;
  const std::size_t held = held_by(holder_of(peer));
  // To take one from another who then has no more than this one would only move the trouble.
  return std::ranges::none_of(lanes_,
                              [held](const Lane& lane) { return lane.jobs.size() > held + 1; });
}

std::optional<Job> FairQueue::push(Job job) {
  std::string holder = holder_of(job.peer);
  std::optional<Job> displaced;
  if (full()) {
    if (refuses(job.peer)) return job;
    const auto lane = fullest();
    displaced = remove(lane, std::prev(lane->jobs.end()));
  }
  auto found = by_holder_.find(holder);
  if (found == by_holder_.end()) {
    lanes_.push_back({.holder = holder, .jobs = {}});
    found = by_holder_.emplace(std::move(holder), std::prev(lanes_.end())).first;
  }
  const Place place{job.answer_by, arrivals_++};
  found->second->jobs.emplace(place, std::move(job));
  ++size_;
  return displaced;
}

std::size_t FairQueue::ahead_of(const Peer& peer, Clock::time_point answer_by) const {
  std::size_t own = 0;
  const auto found = by_holder_.find(holder_of(peer));
  if (found != by_holder_.end())
    own = static_cast<std::size_t>(std::ranges::count_if(
        found->second->jobs, [&](const auto& each) { return each.first.first <= answer_by; }));
  std::size_t ahead = own;
  for (const Lane& lane : lanes_)
    if (found == by_holder_.end() || &lane != &*found->second)
      ahead += std::min(lane.jobs.size(), own + 1);
  return ahead;
}

Job FairQueue::remove(Lanes::iterator lane, std::map<Place, Job>::iterator job) {
  Job removed = std::move(job->second);
  lane->jobs.erase(job);
  --size_;
  if (lane->jobs.empty()) {
    by_holder_.erase(lane->holder);
    lanes_.erase(lane);
  }
  return removed;
}

FairQueue::Batch FairQueue::take(std::size_t most, Clock::time_point now, Clock::duration service) {
  Batch batch;
  Clock::time_point earliest = Clock::time_point::max();
  while (batch.jobs.size() < most && !lanes_.empty()) {
    const auto lane = lanes_.begin();
    const auto job = lane->jobs.begin();
    const Clock::time_point answer_by = job->first.first;
    if (answer_by <= now || answer_by < now + service) {
      batch.stale.push_back(remove(lane, job));
      continue;
    }
    const auto length = static_cast<Clock::rep>(batch.jobs.size() + 1);
    earliest = std::min(earliest, answer_by);
    if (now + length * service > earliest) break;
    // It has had its turn, and may have others waiting.
    lanes_.splice(lanes_.end(), lanes_, lane);
    batch.jobs.push_back(remove(lane, job));
  }
  if (batch.jobs.empty() && !batch.stale.empty()) {
    const auto last = std::ranges::max_element(batch.stale, {}, &Job::answer_by);
    if (last->answer_by > now) {
      batch.jobs.push_back(std::move(*last));
      batch.stale.erase(last);
    }
  }
  return batch;
}

Clock::time_point FairQueue::ripe(std::size_t most, Clock::duration delay,
                                  Clock::duration service) const {
  assert(size_ > 0);
  if (size_ >= most) return Clock::time_point::min();
  const auto longer = static_cast<Clock::rep>(size_ + 1) * service;
  Clock::time_point ripe = Clock::time_point::max();
  for (const Lane& lane : lanes_) {
    ripe = std::min(ripe, lane.jobs.begin()->first.first - longer);
    for (const auto& [place, job] : lane.jobs) ripe = std::min(ripe, job.arrived + delay);
  }
  return ripe;
}

void FairQueue::drop_expired(Clock::time_point now, std::vector<Job>& out) {
  for (auto it = lanes_.begin(); it != lanes_.end();) {
    const auto lane = it++;
    for (std::size_t left = lane->jobs.size(); left > 0; --left) {
      const auto first = lane->jobs.begin();
      if (first->first.first > now) break;
      out.push_back(remove(lane, first));
    }
  }
}

bool FairQueue::erase(const Peer& peer, const RequestId& request) {
  const auto found = by_holder_.find(holder_of(peer));
  if (found == by_holder_.end()) return false;
  const auto lane = found->second;
  const auto job = std::ranges::find_if(lane->jobs, [&](const auto& each) {
    return each.second.request == request && each.second.peer == peer;
  });
  if (job == lane->jobs.end()) return false;
  remove(lane, job);
  return true;
}

}  // namespace offramp
