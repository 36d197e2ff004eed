// Threads that share work in small pieces.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace offramp {

/// Owned by one thread, which works on its own jobs too. Whoever is free takes the next task, so a
/// worker that the system has put aside delays nobody but the task it holds. Between jobs the
/// workers spin for some microseconds, because the next layer usually comes at once, and then
/// sleep: an idle pool uses no CPU.
class ThreadPool {
 public:
  /// `threads` counts the owner; 1 starts no thread. Throws std::system_error.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls f(task, thread) once for each task in [0, tasks), in any order, on any of the threads
  /// [0, threads()), and returns when all are done. Allocates nothing; f must not throw.
  template <class F>
  void run(int tasks, const F& f) noexcept {
    run([](const void* context, int task,
           int thread) { (*static_cast<const F*>(context))(task, thread); },
        &f, tasks);
  }

 private:
  using Call = void (*)(const void* context, int task, int thread);

  void run(Call call, const void* context, int tasks) noexcept;
  void work(int thread) noexcept;
  void take_tasks(int thread) noexcept;
  void end() noexcept;

  std::vector<std::thread> workers_;
  // The job. A thread reads it before it claims a task, and may read that of the next job by
  // mistake; then its claim fails, because the count of jobs is part of what it compares.
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<bool> ending_{false};
  alignas(64) std::atomic<std::uint32_t> jobs_{0};        ///< what sleeping workers wait for
  alignas(64) std::atomic<std::uint64_t> claims_{0};      ///< jobs << 32 | tasks not yet taken
  alignas(64) std::atomic<std::uint32_t> unfinished_{0};  ///< tasks of the job that are not done
};

}  // namespace offramp
