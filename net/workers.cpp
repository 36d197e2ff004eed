#include "net/workers.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "net/elapsed.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxKnocks = 10000;

}  // namespace

Workers::Worker::Worker(std::span<const Stage> stages, const NodeOptions& options)
    : pool(stages[static_cast<std::size_t>(options.first_stage)].plan().threads()),
      runner(stages, options.pictures ? 0 : options.first_stage, options.first_stage,
             options.stage_count, options.format, pool) {}

Workers::Workers(std::span<const Stage> stages, const NodeOptions& options)
    : tier_(options.tier),
      batch_(static_cast<std::size_t>(
          stages[static_cast<std::size_t>(options.first_stage)].plan().max_batch())),
      batch_delay_(options.batch_delay),
      before_compute_(options.before_compute),
      jobs_(static_cast<std::size_t>(options.queue_capacity)) {
  try {
    // The large memory of all of them before any works: what fails in a thread ends the process.
    for (int i = 0; i < options.workers; ++i) workers_.emplace_back(stages, options);
    for (Worker& worker : workers_) threads_.emplace_back([this, &worker] { work(worker.runner); });
  } catch (const std::system_error& error) {
    close();
    throw Error(ErrorKind::kSystem, std::string("worker threads: ") + error.what());
  } catch (...) {
    close();
    throw;
  }
}

Workers::~Workers() { close(); }

// The threads end and are joined when they are destroyed.
void Workers::close() {
  {
    const std::lock_guard lock(queue_mutex_);
    closed_ = true;
  }
  queue_filled_.notify_all();
}

// ---- for the loop ----

const char* Workers::obstacle(const Peer& peer, Clock::time_point answer_by,
                              Clock::time_point now) {
  std::vector<Job> expired;
  const char* why = nullptr;
  {
    const std::lock_guard lock(queue_mutex_);
    if (jobs_.full()) jobs_.drop_expired(now, expired);
    if (jobs_.refuses(peer)) {
      why = "the queue is full";
    } else if (const std::size_t here = jobs_.size() + running_;
               here > 0 && now + time_for(here + batch_) > answer_by) {
      // Closer: not all are before it, and a batch need not be full. But its own batch may be
      // made of any others, and all of them are to be in time.
      const std::size_t ahead = jobs_.ahead_of(peer, answer_by);
      const Clock::duration own = pace_.median() * std::min(batch_, jobs_.size() + 1);
      if (now + time_for(ahead + running_) + own > answer_by) why = "it cannot be served in time";
    }
  }
  post_unrun(std::move(expired), Fate::kExpired);
  return why;
}

void Workers::push(Job job) {
  std::vector<Job> displaced;
  {
    const std::lock_guard lock(queue_mutex_);
    if (std::optional<Job> goes = jobs_.push(std::move(job))) displaced.push_back(std::move(*goes));
  }
  queue_filled_.notify_one();
  post_unrun(std::move(displaced), Fate::kDisplaced);
}

bool Workers::push(Knock knock) {
  {
    const std::lock_guard lock(queue_mutex_);
    if (knocks_.size() >= kMaxKnocks) return false;
    knocks_.push_back(std::move(knock));
  }
  queue_filled_.notify_one();
  return true;
}

bool Workers::cancel(const Peer& peer, const RequestId& request) {
  const std::lock_guard lock(queue_mutex_);
  return jobs_.erase(peer, request);
}

std::optional<Workers::Result> Workers::pop_result() {
  const std::lock_guard lock(results_mutex_);
  if (results_.empty()) {
    results_event_.clear();
    return {};
  }
  Result result = std::move(results_.front());
  results_.pop_front();
  return result;
}

std::size_t Workers::queued() const {
  const std::lock_guard lock(queue_mutex_);
  return jobs_.size();
}

Clock::duration Workers::pace() const {
  const std::lock_guard lock(queue_mutex_);
  return pace_.median();
}

Clock::duration Workers::backlog() const {
  const std::lock_guard lock(queue_mutex_);
  return time_for(jobs_.size() + running_);
}

// What all workers together take for so many.
Clock::duration Workers::time_for(std::size_t requests) const {
  return pace_.median() * static_cast<Clock::rep>(requests) /
         static_cast<Clock::rep>(workers_.size());
}

// ---- the threads ----

void Workers::post(std::vector<Result> results) {
  {
    const std::lock_guard lock(results_mutex_);
    std::ranges::move(results, std::back_inserter(results_));
  }
  results_event_.signal();
}

void Workers::post_unrun(std::vector<Job> jobs, Fate fate) {
  if (jobs.empty()) return;
  const Clock::time_point now = Clock::now();
  std::vector<Result> results;
  for (Job& job : jobs) {
    job.input = Buffer();
    const Hop hop{.tier = tier_, .queue_us = elapsed_us(job.arrived, now)};
    results.emplace_back(Done{.job = std::move(job), .fate = fate, .hop = hop});
  }
  post(std::move(results));
}

void Workers::work(BatchRunner& runner) {
  std::unique_lock lock(queue_mutex_);
  while (await_work(lock)) {
    if (knocks_.empty()) {
      run_batch(lock, runner);
      continue;
    }
    std::vector<Result> answer;
    answer.emplace_back(std::move(knocks_.front()));
    knocks_.pop_front();
    lock.unlock();
    post(std::move(answer));
    lock.lock();
  }
}

// Until there is a knock, or a batch is to begin; false at the end.
bool Workers::await_work(std::unique_lock<std::mutex>& lock) {
  while (!closed_ && knocks_.empty()) {
    if (jobs_.size() == 0) {
      queue_filled_.wait(lock);
      continue;
    }
    if (batch_delay_ <= Clock::duration::zero()) break;
    const Clock::time_point ripe = jobs_.ripe(batch_, batch_delay_, pace_.median());
    if (ripe <= Clock::now()) break;
    queue_filled_.wait_until(lock, ripe);
  }
  return !closed_;
}

void Workers::run_batch(std::unique_lock<std::mutex>& lock, BatchRunner& runner) {
  const Clock::time_point taken = Clock::now();
  FairQueue::Batch batch = jobs_.take(batch_, taken, pace_.median());
  const std::size_t size = batch.jobs.size();
  running_ += size;
  // Others may have slept through the arrivals while this one waited for a batch.
  if (jobs_.size() > 0) queue_filled_.notify_one();
  lock.unlock();
  post_unrun(std::move(batch.stale), Fate::kExpired);
  std::vector<Result> results;
  Clock::duration took{};
  if (size > 0) {
    if (before_compute_)
      for (std::size_t i = 0; i < size; ++i) before_compute_();
    std::vector<Done> done = runner.run(std::move(batch.jobs));
    took = Clock::now() - taken;
    for (Done& each : done) {
      each.hop = {.tier = tier_,
                  .queue_us = elapsed_us(each.job.arrived, taken),
                  .compute_us = to_us(took)};
      results.emplace_back(std::move(each));
    }
  }
  lock.lock();
  running_ -= size;
  if (size > 0) pace_.add(took / static_cast<Clock::rep>(size));
  lock.unlock();
  if (size > 0) post(std::move(results));
  lock.lock();
}

}  // namespace offramp
