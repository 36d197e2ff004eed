// A segment compiled for one machine: kernels chosen, weights packed, every activation at a fixed
// offset. Its slow twin is engine/interpreter.h.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "engine/conv_algorithm.h"
#include "engine/partition.h"
#include "engine/tensor.h"

namespace offramp {

struct KernelTable;
class ThreadPool;

struct PlanOptions {
  const KernelTable* kernels = nullptr;  ///< nullptr: the best of this CPU
  ConvAlgorithm convolution = ConvAlgorithm::kAuto;
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

  /// Runs 1..max_batch samples. Allocates nothing and throws nothing. With a pool, up to threads()
  /// of its threads share the work: the samples of a batch, or the outputs of a large layer.
  Outputs run(View input, Workspace& workspace, ThreadPool* pool = nullptr) const noexcept;

  Workspace make_workspace() const;
  Shape input_shape() const;
  Shape carry_shape() const;  ///< 0 channels for the last segment
  int classes() const;
  int max_batch() const;
  int threads() const;
  const KernelTable& kernels() const;

  /// One line per step, for `inspect` and for debugging: layer, algorithm, arena offset.
  std::vector<std::string> describe() const;

 private:
  struct Impl;
  explicit Plan(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp
