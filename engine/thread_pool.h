// Threads that share the work of one layer at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace offramp {

/// Owned by one thread, which takes part 0 of each job itself. Between jobs the others spin for
/// some microseconds, because the next layer usually comes at once, and then sleep: an idle pool
/// uses no CPU.
class ThreadPool {
 public:
  /// `threads` counts the owner; 1 starts no thread. Throws std::system_error.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls f(part, parts) once for each part in [0, parts), each on a thread of its own, and
  /// returns when all are done. 1 <= parts <= threads(). Allocates nothing; f must not throw.
  template <class F>
  void run(int parts, const F& f) noexcept {
    run({[](const void* context, int part, int count) {
           (*static_cast<const F*>(context))(part, count);
         },
         &f, parts});
  }

 private:
  struct Job {
    void (*call)(const void* context, int part, int parts) = nullptr;
    const void* context = nullptr;
    int parts = 0;  ///< 0 ends the workers
  };

  void run(const Job& job) noexcept;
  void publish(const Job& job) noexcept;
  void work(int part) noexcept;
  void end() noexcept;

  std::vector<std::thread> workers_;
  Job job_;
  alignas(64) std::atomic<std::uint32_t> epoch_{0};  ///< counts jobs
  alignas(64) std::atomic<int> unfinished_{0};       ///< workers that have not seen or done the job
};

}  // namespace offramp
