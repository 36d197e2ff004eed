#include "engine/thread_pool.h"

#include <cassert>

namespace offramp {
namespace {

// Some tens of microseconds: longer than the gap between two layers, shorter than anyone would
// notice.
constexpr int kSpins = 4000;

constexpr std::uint64_t kTaskMask = 0xFFFFFFFFu;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns a value other than `old`.
std::uint32_t await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (const std::uint32_t now = value.load(std::memory_order_acquire); now != old) return now;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  assert(threads >= 1);
  try {
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  } catch (...) {
    end();
    throw;
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() noexcept {
  ending_.store(true, std::memory_order_relaxed);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(Call call, const void* context, int tasks) noexcept {
  assert(tasks >= 0);
  if (tasks <= 1 || workers_.empty()) {
    for (int task = 0; task < tasks; ++task) call(context, task, 0);
    return;
  }
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  const auto count = static_cast<std::uint32_t>(tasks);
  unfinished_.store(count, std::memory_order_relaxed);
  const std::uint32_t job = jobs_.load(std::memory_order_relaxed) + 1;
  claims_.store(static_cast<std::uint64_t>(job) << 32 | count, std::memory_order_release);
  // Not release: notify_all() looks whether anyone sleeps, and must not do so before the store.
  jobs_.store(job, std::memory_order_seq_cst);
  jobs_.notify_all();
  take_tasks(0);
  for (std::uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0;) {
    left = await_change(unfinished_, left);
  }
}

void ThreadPool::take_tasks(int thread) noexcept {
  std::uint64_t claim = claims_.load(std::memory_order_acquire);
  while ((claim & kTaskMask) != 0) {
    const Call call = call_.load(std::memory_order_relaxed);
    const void* const context = context_.load(std::memory_order_relaxed);
    if (!claims_.compare_exchange_weak(claim, claim - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      continue;
    }
    call(context, static_cast<int>((claim & kTaskMask) - 1), thread);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
    claim = claims_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work(int thread) noexcept {
  for (std::uint32_t seen = 0; !ending_.load(std::memory_order_relaxed);) {
    seen = await_change(jobs_, seen);
    take_tasks(thread);
  }
}

}  // namespace offramp
