#include "net/workers.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "net/elapsed.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxKnocks = 10000;

}  // namespace

Workers::Workers(std::span<const Stage> stages, int first, int count, Tier tier,
                 const TensorFormat& format, int threads, std::size_t capacity,
                 std::function<void()> before_compute)
    : stages_(stages),
      first_(first),
      count_(count),
      tier_(tier),
      format_(format),
      capacity_(capacity),
      before_compute_(std::move(before_compute)) {
  try {
    const int sharing = stages[static_cast<std::size_t>(first)].plan().threads();
    for (int i = 0; i < threads; ++i) {
      pools_.push_back(std::make_unique<ThreadPool>(sharing));
      threads_.emplace_back([this, pool = pools_.back().get()] { work(*pool); });
    }
  } catch (const std::system_error& error) {
    {
      const std::lock_guard lock(queue_mutex_);
      closed_ = true;
    }
    queue_filled_.notify_all();
    throw Error(ErrorKind::kSystem, std::string("worker threads: ") + error.what());
  }
}

Workers::~Workers() {
  {
    const std::lock_guard lock(queue_mutex_);
    closed_ = true;
    jobs_.clear();
    knocks_.clear();
  }
  queue_filled_.notify_all();
}

template <class T>
bool Workers::enqueue(std::deque<T>& queue, std::size_t capacity, T item) {
  {
    const std::lock_guard lock(queue_mutex_);
    if (queue.size() >= capacity) return false;
    queue.push_back(std::move(item));
  }
  queue_filled_.notify_one();
  return true;
}

bool Workers::push(Job job) { return enqueue(jobs_, capacity_, std::move(job)); }

bool Workers::push(Knock knock) { return enqueue(knocks_, kMaxKnocks, std::move(knock)); }

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

void Workers::post(Result result) {
  {
    const std::lock_guard lock(results_mutex_);
    results_.push_back(std::move(result));
  }
  results_event_.signal();
}

void Workers::work(ThreadPool& pool) {
  std::vector<StageMemory> memories;
  for (int i = 0; i < count_; ++i) {
    memories.push_back(stages_[static_cast<std::size_t>(first_ + i)].make_memory());
    memories.back().pool = &pool;
  }
  while (true) {
    std::unique_lock lock(queue_mutex_);
    queue_filled_.wait(lock, [this] { return closed_ || !jobs_.empty() || !knocks_.empty(); });
    if (closed_) return;
    if (!knocks_.empty()) {
      Knock knock = std::move(knocks_.front());
      knocks_.pop_front();
      lock.unlock();
      post(std::move(knock));
      continue;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    post(run(std::move(job), memories));
  }
}

Done Workers::run(Job job, std::vector<StageMemory>& memories) const {
  Done done;
  done.hop.tier = tier_;
  const Clock::time_point taken = Clock::now();
  done.hop.queue_us = elapsed_us(job.arrived, taken);
  done.expired = taken >= job.answer_by;
  if (!done.expired) {
    if (before_compute_) before_compute_();
    const auto first = static_cast<std::size_t>(first_);
    View input{
        .data = job.input.data(), .batch = 1, .shape = stages_[job.cut].plan().input_shape()};
    for (std::size_t i = job.cut; i < first + static_cast<std::size_t>(count_); ++i) {
      const Stage::Outcome outcome = stages_[i].step(input, memories[i - first]);
      done.decision = outcome.decisions[0];
      done.probabilities.assign(outcome.probabilities.begin(), outcome.probabilities.end());
      done.answers = stages_[i].answers(done.decision);
      if (done.answers) break;
      input = outcome.carry;
    }
    if (!done.answers) done.carry = encode_tensor(input, format_);
    done.hop.compute_us = elapsed_us(taken, Clock::now());
  }
  job.input = Buffer();
  done.job = std::move(job);
  return done;
}

}  // namespace offramp
