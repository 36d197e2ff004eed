// The threads of a node that compute, and the queues to them and back.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "engine/cascade.h"
#include "engine/thread_pool.h"
#include "net/fronts.h"
#include "net/poll.h"
#include "net/tensor_codec.h"

namespace offramp {

/// A sample to run through the node's stages.
struct Job {
  Peer peer;
  RequestId request{};
  std::uint8_t cut = 0;  ///< index of the first stage to run
  std::uint8_t hop = 0;
  Clock::time_point arrived;
  Clock::time_point answer_by;  ///< when the answer is to leave this node
  Buffer input;                 ///< [height, width, channels]
};

/// A job that a worker has taken from the queue.
struct Done {
  Job job;               ///< without its input
  bool expired = false;  ///< dropped: its budget had run out; the rest is empty
  bool answers = false;  ///< the last stage that ran is sure, or the last of all
  Decision decision;     ///< of the last stage that ran
  std::vector<float> probabilities;
  Hop hop;
  WireTensor carry;  ///< for the next tier, when not sure
};

/// The node's own question whether its workers are alive.
struct Probe {};

/// A message that a worker is to answer, so that the answer proves that the workers are alive.
struct Knock {
  Peer peer;
  std::variant<Hello, Ping, Probe> message;
  Clock::time_point arrived;
};

class Workers {
 public:
  /// `stages` are all of the model's; this node runs [first, first + count).
  Workers(std::span<const Stage> stages, int first, int count, Tier tier,
          const TensorFormat& format, int threads, std::size_t capacity,
          std::function<void()> before_compute);
  /// Drops what is queued and joins the threads.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// True when `capacity` jobs wait already.
  bool full() const { return queued() >= capacity_; }
  /// False when full().
  [[nodiscard]] bool push(Job job);
  /// Goes before all jobs. False when very many wait.
  [[nodiscard]] bool push(Knock knock);

  using Result = std::variant<Done, Knock>;
  std::optional<Result> pop_result();
  int results_fd() const { return results_event_.fd(); }  ///< readable when there may be results
  std::size_t queued() const;

 private:
  template <class T>
  bool enqueue(std::deque<T>& queue, std::size_t capacity, T item);
  void work(ThreadPool& pool);
  void post(Result result);
  Done run(Job job, std::vector<StageMemory>& memories) const;

  std::span<const Stage> stages_;
  int first_, count_;
  Tier tier_;
  TensorFormat format_;  ///< of carry
  std::size_t capacity_;
  std::function<void()> before_compute_;

  mutable std::mutex queue_mutex_;
  std::condition_variable queue_filled_;
  std::deque<Job> jobs_;
  std::deque<Knock> knocks_;
  bool closed_ = false;

  std::mutex results_mutex_;
  std::deque<Result> results_;
  EventFd results_event_;

  std::vector<std::unique_ptr<ThreadPool>> pools_;  ///< one for each thread, that it owns
  std::vector<std::jthread> threads_;
};

}  // namespace offramp
