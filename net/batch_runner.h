// What a worker does with a batch: stage after stage, each sample to its own exit.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/cascade.h"
#include "engine/thread_pool.h"
#include "net/job.h"
#include "net/tensor_codec.h"

namespace offramp {

/// What became of a request in the queue.
enum class Fate {
  kComputed,
  kExpired,    ///< it could not be answered in time when it left the queue
  kDisplaced,  ///< the queue was full, and its device had most of it
};

/// A job that has left the queue.
struct Done {
  Job job;                      ///< without its input
  Fate fate = Fate::kComputed;  ///< for any other, the rest is empty
  std::size_t batch = 0;        ///< computed together, said by the first of them; 0 by the others
  bool answers = false;         ///< the last stage that ran is sure, or the last of all
  Decision decision{};          ///< of the last stage that ran
  std::vector<float> probabilities{};
  Hop hop{};
  WireTensor carry{};  ///< for the next tier, when not sure or to be audited
};

/// Memory of one worker for the stages of its node.
class BatchRunner {
 public:
  /// Runs [first, first + count) of `stages`, which outlive it, as `pool` does; and for jobs that
  /// begin before them those from `earliest` on, without asking their exits.
  BatchRunner(std::span<const Stage> stages, int earliest, int first, int count,
              const TensorFormat& format, ThreadPool& pool);

  /// Runs 1 to max_batch jobs, those that begin at a later cut from there on. The answer for each
  /// does not depend on the others. Leaves the times of the hops to the caller.
  std::vector<Done> run(std::vector<Job> jobs);

 private:
  View gather(const std::vector<Job>& jobs, std::size_t stage, int undecided);

  std::span<const Stage> stages_;
  std::size_t earliest_, first_, end_;
  TensorFormat format_;  ///< of carry
  std::vector<StageMemory> memories_;
  Buffer packed_;           ///< inputs of a stage, of all its samples
  std::vector<int> index_;  ///< which job each of them is
};

}  // namespace offramp
