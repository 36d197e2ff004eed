// A segment compiled for one machine: kernels chosen, weights packed, every activation at a fixed
// offset. Its slow twin is engine/interpreter.h.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/conv_algorithm.h"
#include "engine/partition.h"
#include "engine/tensor.h"

namespace offramp {

struct KernelTable;
class ThreadPool;

/// Which path computes a convolution, by the layer's name.
using ConvPaths = std::map<std::string, ConvPath>;

/// With ConvAlgorithm::kAuto the choice depends on how many samples share a visit to the weights,
/// so on max_batch and threads, and on this CPU's caches: plans that are to agree in the last bits
/// need the same `paths`, or another algorithm.
struct PlanOptions {
  const KernelTable* kernels = nullptr;  ///< nullptr: the best of this CPU
  ConvAlgorithm convolution = ConvAlgorithm::kAuto;
  ConvPaths paths = {};  ///< where there is one for a layer, and it can do it, before `convolution`
  int max_batch = 1;
  int threads = 1;  ///< that share the work of a run; at least 1
};

/// Options from the environment: OFFRAMP_ISA and OFFRAMP_CONV. Throws Error{kUsage}.
PlanOptions plan_options_from_environment();

/// Memory for one run at a time; one for each thread.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::size_t floats) : arena_(floats) {}
  float* data() { return arena_.data(); }
  std::size_t floats() const { return arena_.size(); }

 private:
  Buffer arena_;
};

/// What a step of a plan is, for listings.
struct StepInfo {
  std::string layer;      ///< its module path in PyTorch
  std::string op;         ///< "conv2d"
  std::string algorithm;  ///< of a convolution: the name of `path`; otherwise ""
  ConvPath path = ConvPath::kDirect;
  Shape in, out;
  double macs = 0.0;             ///< of one sample, as direct sums
  std::size_t weight_bytes = 0;  ///< packed
  std::size_t moved_bytes = 0;   ///< activations that one sample reads and writes
  int samples = 1;               ///< that go through it together, of a full batch; at most
};

/// Where the time of some runs went; give each of them the same clock.
class StepClock {
 public:
  StepClock(int steps, int threads);
  /// Nanoseconds of step `step` in all runs so far. Where threads each run their own samples, the
  /// mean of their times.
  double nanoseconds(int step) const;
  void add(int thread, int step, double nanoseconds);

 private:
  int steps_;
  std::vector<double> ns_;  ///< [thread][step]
};

/// Immutable; any number of threads may run it, each with its own workspace.
class Plan {
 public:
  /// Views into the workspace, valid until its next run.
  struct Outputs {
    View logits;
    View carry;  ///< empty for the last segment
  };

  /// `graph` must have been fused (engine/passes.h) or be plain; weights are copied into the plan.
  static Plan compile(const Graph& graph, const Segment& segment, const PlanOptions& options);

  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;
  ~Plan();

  /// Runs 1..max_batch samples. Allocates nothing and throws nothing. The threads of a pool share
  /// the work, the samples of a batch or the outputs of a large layer; one of more than threads()
  /// is not used.
  Outputs run(View input, Workspace& workspace, ThreadPool* pool = nullptr,
              StepClock* clock = nullptr) const noexcept;

  Workspace make_workspace() const;
  Shape input_shape() const;
  Shape carry_shape() const;  ///< 0 channels for the last segment
  int classes() const;
  int max_batch() const;
  int threads() const;
  const KernelTable& kernels() const;

  std::vector<StepInfo> steps() const;
  std::size_t arena_floats() const;  ///< of a workspace

 private:
  struct Impl;
  explicit Plan(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp
