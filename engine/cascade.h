// One tier's work, and all tiers in one process: the twin of net/.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/exits.h"
#include "engine/model.h"
#include "engine/plan.h"
#include "engine/thread_pool.h"

namespace offramp {

/// Memory of one thread for one stage.
struct StageMemory {
  Workspace workspace;
  std::vector<Decision> decisions;
  std::vector<float> probabilities;  ///< [batch, classes]
  ThreadPool* pool = nullptr;        ///< not owned; null: this thread alone
};

/// A segment with its exit. Immutable, shared by threads, each with its own StageMemory.
class Stage {
 public:
  Stage(Plan plan, int exit, ExitRule rule, bool last, std::uint64_t macs);

  /// What step() leaves in the memory, valid until the next step with it.
  struct Outcome {
    std::span<const Decision> decisions;   ///< one per sample
    std::span<const float> probabilities;  ///< [batch, classes]
    View carry;                            ///< empty for the last stage
  };

  /// Runs 1..max_batch samples through segment and exit. Allocates nothing.
  Outcome step(View input, StageMemory& memory) const noexcept;

  /// True when this stage answers with `decision` instead of handing on; always for the last.
  bool answers(const Decision& decision) const { return last_ || rule_.sure(decision); }

  StageMemory make_memory() const;
  const Plan& plan() const { return plan_; }
  int exit() const { return exit_; }
  ExitRule rule() const { return rule_; }
  bool last() const { return last_; }
  std::uint64_t macs() const { return macs_; }

 private:
  Plan plan_;
  int exit_;
  ExitRule rule_;
  bool last_;
  std::uint64_t macs_;
};

/// Fuses, cuts and compiles. `thresholds` empty: those of the model file; otherwise one for each
/// exit but the last, or a single one for all of them. Throws Error{kUsage} for a wrong number, a
/// NaN, or a value outside [0, 1].
std::vector<Stage> make_stages(const Model& model, std::span<const float> thresholds,
                               const PlanOptions& options);

/// Moves the carries of the samples that `stage` does not answer to the front of `packed`, in their
/// order, and what `index` says of them to its front; returns their number. `outcome` is of its
/// last step, index[n] belongs to sample n. The carries may lie in `packed` already.
int pack_undecided(const Stage& stage, const Stage::Outcome& outcome, std::span<int> index,
                   float* packed) noexcept;

struct CascadeMemory {
  std::unique_ptr<ThreadPool> pool;  ///< null for plans of one thread
  std::vector<StageMemory> stages;
  Buffer survivors;        ///< carries of undecided samples, packed together
  std::vector<int> index;  ///< which sample each of them is
};

CascadeMemory make_cascade_memory(std::span<const Stage> stages);

/// Classifies 1..max_batch samples; each takes its own exit, and those that are undecided go on
/// packed together. The answer for a sample does not depend on the batch it is in.
void run_cascade(std::span<const Stage> stages, View input, CascadeMemory& memory,
                 std::span<Decision> decisions) noexcept;

}  // namespace offramp
