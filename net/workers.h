// The threads of a node that compute, and the queues to them and back.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "engine/cascade.h"
#include "engine/thread_pool.h"
#include "net/batch_runner.h"
#include "net/fair_queue.h"
#include "net/node.h"
#include "net/pace.h"
#include "net/poll.h"

namespace offramp {

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
  /// `stages` are all of the model's and outlive this.
  Workers(std::span<const Stage> stages, const NodeOptions& options);
  /// Drops what is queued and joins the threads.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Why one more request of `peer` would be refused; null when it would be taken. What has
  /// expired takes nobody's place.
  const char* obstacle(const Peer& peer, Clock::time_point answer_by, Clock::time_point now);
  /// When the queue is full, a request goes for it, of the device that has most of them or this
  /// one: a Done says so.
  void push(Job job);
  /// True when the request still waited, and has been forgotten.
  bool cancel(const Peer& peer, const RequestId& request);
  /// Goes before all jobs. False when very many wait.
  [[nodiscard]] bool push(Knock knock);

  using Result = std::variant<Done, Knock>;
  std::optional<Result> pop_result();
  int results_fd() const { return results_event_.fd(); }  ///< readable when there may be results
  std::size_t queued() const;
  std::size_t threads() const { return threads_.size(); }
  /// Median time that a worker takes for a request.
  Clock::duration pace() const;
  /// How long all that is here now is likely to take.
  Clock::duration backlog() const;

 private:
  /// A worker's life: knocks, then batches.
  void work(BatchRunner& runner);
  void close();
  bool await_work(std::unique_lock<std::mutex>& lock);
  void run_batch(std::unique_lock<std::mutex>& lock, BatchRunner& runner);
  void post(std::vector<Result> results);
  void post_unrun(std::vector<Job> jobs, Fate fate);
  Clock::duration time_for(std::size_t requests) const;

  /// What a thread computes with, and nobody else.
  struct Worker {
    Worker(std::span<const Stage> stages, const NodeOptions& options);
    ThreadPool pool;
    BatchRunner runner;
  };

  Tier tier_;
  std::size_t batch_;  ///< largest
  Clock::duration batch_delay_;
  std::function<void()> before_compute_;

  mutable std::mutex queue_mutex_;
  std::condition_variable queue_filled_;
  FairQueue jobs_;
  std::deque<Knock> knocks_;
  std::size_t running_ = 0;  ///< requests in batches that are being computed
  Pace pace_;
  bool closed_ = false;

  std::mutex results_mutex_;
  std::deque<Result> results_;
  EventFd results_event_;

  std::deque<Worker> workers_;
  std::vector<std::jthread> threads_;
};

}  // namespace offramp
