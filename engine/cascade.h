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
  std::vector<float> doubts;         ///< [batch]
  /// [batch]: what the exits before have said of each sample, and after a step this one, too. For
  /// patience alone.
  std::vector<Streak> streaks;
  ThreadPool* pool = nullptr;  ///< not owned; null: this thread alone
};

/// A segment with its exit. Immutable, shared by threads, each with its own StageMemory.
class Stage {
 public:
  Stage(Plan plan, int exit, ExitRule rule, bool last, std::uint64_t macs);

  /// What step() leaves in the memory, valid until the next step with it.
  struct Outcome {
    std::span<const Decision> decisions;   ///< one per sample
    std::span<const float> probabilities;  ///< [batch, classes]
    std::span<const float> doubts;         ///< one per sample, of this exit's rule
    View carry;                            ///< empty for the last stage
  };

  /// Runs 1..max_batch samples through segment and exit. Allocates nothing.
  Outcome step(View input, StageMemory& memory) const noexcept;

  /// True when this stage answers instead of handing on; always for the last.
  bool answers(float doubt) const { return last_ || rule_.sure(doubt); }

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

/// The same with rules given: one for each exit. Throws Error{kUsage} for another number of them, a
/// threshold outside [0, 1] or a temperature outside its range.
std::vector<Stage> compile_stages(const Model& model, std::span<const ExitRule> rules,
                                  const PlanOptions& options);

/// Throws Error{kUsage} when a rule asks what the exits before have said: tiers do not tell one
/// another.
void check_independent(std::span<const Stage> stages);

/// Moves the carries of the samples that `stage` does not answer to the front of `packed`, in their
/// order, and what `index` says of them to its front; returns their number. `outcome` is of its
/// last step, index[n] belongs to sample n. The carries may lie in `packed` already.
int pack_undecided(const Stage& stage, const Stage::Outcome& outcome, std::span<int> index,
                   float* packed) noexcept;

struct CascadeMemory {
  std::unique_ptr<ThreadPool> pool;  ///< null for plans of one thread
  std::vector<StageMemory> stages;
  Buffer survivors;             ///< carries of undecided samples, packed together
  std::vector<int> index;       ///< which sample each of them is
  std::vector<Streak> streaks;  ///< [batch], of those who left, too
};

CascadeMemory make_cascade_memory(std::span<const Stage> stages);

/// Classifies 1..max_batch samples; each takes its own exit, and those that are undecided go on
/// packed together. The answer for a sample does not depend on the batch it is in.
void run_cascade(std::span<const Stage> stages, View input, CascadeMemory& memory,
                 std::span<Decision> decisions) noexcept;

}  // namespace offramp
