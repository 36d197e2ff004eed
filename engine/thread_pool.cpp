#include "engine/thread_pool.h"

#include <cassert>

namespace offramp {
namespace {

// About 20 microseconds: longer than the gap between two layers, shorter than anyone would notice.
constexpr int kSpins = 4000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns a value other than `old`.
template <class T>
T await_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (const T now = value.load(std::memory_order_acquire); now != old) return now;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  assert(threads >= 1);
  try {
    for (int part = 1; part < threads; ++part) {
      workers_.emplace_back([this, part] { work(part); });
    }
  } catch (...) {
    end();
    throw;
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() noexcept {
  publish({});
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::publish(const Job& job) noexcept {
  job_ = job;
  unfinished_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
}

void ThreadPool::run(const Job& job) noexcept {
  assert(job.parts >= 1 && job.parts <= threads());
  if (job.parts == 1) {
    job.call(job.context, 0, 1);
    return;
  }
  publish(job);
  job.call(job.context, 0, job.parts);
  for (int left = unfinished_.load(std::memory_order_acquire); left != 0;) {
    left = await_change(unfinished_, left);
  }
}

void ThreadPool::work(int part) noexcept {
  for (std::uint32_t seen = 0;;) {
    const std::uint32_t epoch = await_change(epoch_, seen);
    seen = epoch;
    const Job job = job_;
    if (job.parts == 0) return;
    if (part < job.parts) job.call(job.context, part, job.parts);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  }
}

}  // namespace offramp
