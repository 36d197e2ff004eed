#include "engine/cascade.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <utility>

#include "engine/error.h"
#include "engine/passes.h"

namespace offramp {
namespace {

// The model's rules, with other thresholds where there are some.
std::vector<ExitRule> exit_rules(const Graph& graph, std::span<const float> thresholds) {
  const std::size_t wanted = graph.exits.size() - 1;
  if (!thresholds.empty() && thresholds.size() != 1 && thresholds.size() != wanted) {
    throw Error(ErrorKind::kUsage, "thresholds: wanted 1 or " + std::to_string(wanted) +
                                       " of them, found " + std::to_string(thresholds.size()));
  }
  std::vector<ExitRule> rules;
  for (std::size_t i = 0; i < graph.exits.size(); ++i) {
    rules.push_back(graph.exits[i].rule);
    if (!thresholds.empty())
      rules.back().threshold = thresholds[std::min(i, thresholds.size() - 1)];
  }
  return rules;
}

void check(const ExitRule& rule) {
  const float t = rule.threshold;
  if (!(t >= 0.0f && t <= 1.0f)) {
    throw Error(ErrorKind::kUsage,
                "thresholds: wanted values in [0, 1], found " + std::to_string(t));
  }
  if (!(rule.temperature >= kLeastTemperature && rule.temperature <= kMostTemperature)) {
    throw Error(ErrorKind::kUsage, "temperatures: wanted values from 0.01 to 100, found " +
                                       std::to_string(rule.temperature));
  }
}

}  // namespace

Stage::Stage(Plan plan, int exit, ExitRule rule, bool last, std::uint64_t macs)
    : plan_(std::move(plan)), exit_(exit), rule_(rule), last_(last), macs_(macs) {}

Stage::Outcome Stage::step(View input, StageMemory& memory) const noexcept {
  const Plan::Outputs outputs = plan_.run(input, memory.workspace, memory.pool);
  const std::size_t classes = static_cast<std::size_t>(plan_.classes());
  const std::size_t batch = static_cast<std::size_t>(input.batch);
  const std::span<float> probabilities{memory.probabilities.data(), batch * classes};
  for (std::size_t n = 0; n < batch; ++n) {
    const std::span<float> here = probabilities.subspan(n * classes, classes);
    memory.decisions[n] = decide(plan_.kernels(), {outputs.logits.data + n * classes, classes},
                                 exit_, here, rule_.temperature);
    memory.streaks[n].add(memory.decisions[n]);
    memory.doubts[n] = doubt(rule_.criterion, memory.decisions[n], here, memory.streaks[n]);
  }
  return {{memory.decisions.data(), batch},
          probabilities,
          {memory.doubts.data(), batch},
          outputs.carry};
}

StageMemory Stage::make_memory() const {
  const std::size_t batch = static_cast<std::size_t>(plan_.max_batch());
  const std::size_t classes = static_cast<std::size_t>(plan_.classes());
  return {.workspace = plan_.make_workspace(),
          .decisions = std::vector<Decision>(batch),
          .probabilities = std::vector<float>(batch * classes),
          .doubts = std::vector<float>(batch),
          .streaks = std::vector<Streak>(batch)};
}

std::vector<Stage> make_stages(const Model& model, std::span<const float> thresholds,
                               const PlanOptions& options) {
  return compile_stages(model, exit_rules(model.graph, thresholds), options);
}

std::vector<Stage> compile_stages(const Model& model, std::span<const ExitRule> rules,
                                  const PlanOptions& options) {
  if (rules.size() != model.graph.exits.size()) {
    throw Error(ErrorKind::kUsage, "rules: wanted " + std::to_string(model.graph.exits.size()) +
                                       ", one for each exit, found " +
                                       std::to_string(rules.size()));
  }
  for (const ExitRule& rule : rules) check(rule);
  const FusedGraph fused = fuse(model.graph);
  const std::vector<Segment> segments = split_at_exits(fused.graph);
  std::vector<Stage> stages;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    stages.emplace_back(Plan::compile(fused.graph, segments[i], options), static_cast<int>(i),
                        rules[i], i + 1 == segments.size(), segments[i].macs);
  }
  return stages;
}

void check_independent(std::span<const Stage> stages) {
  for (const Stage& stage : stages) {
    if (stage.last() || stage.rule().criterion != Criterion::kPatience) continue;
    throw Error(ErrorKind::kUsage,
                "patience: wanted all exits in one process (classify, eval), for tiers do not tell "
                "one another what their exits have said; found it at exit " +
                    std::to_string(stage.exit() + 1));
  }
}

CascadeMemory make_cascade_memory(std::span<const Stage> stages) {
  CascadeMemory memory;
  std::size_t carry = 0;
  const std::size_t batch = static_cast<std::size_t>(stages[0].plan().max_batch());
  const int threads = stages[0].plan().threads();
  if (threads > 1) memory.pool = std::make_unique<ThreadPool>(threads);
  for (const Stage& stage : stages) {
    memory.stages.push_back(stage.make_memory());
    memory.stages.back().pool = memory.pool.get();
    carry = std::max(carry, stage.plan().carry_shape().elements());
  }
  memory.survivors = Buffer(carry * batch);
  memory.index.resize(batch);
  memory.streaks.resize(batch);
  return memory;
}

int pack_undecided(const Stage& stage, const Stage::Outcome& outcome, std::span<int> index,
                   float* packed) noexcept {
  const std::size_t size = outcome.carry.shape.elements();
  std::size_t undecided = 0;
  for (std::size_t n = 0; n < outcome.decisions.size(); ++n) {
    if (stage.answers(outcome.doubts[n])) continue;
    // Not memcpy: a carry that is the stage's own input may already lie among the packed.
    std::memmove(packed + undecided * size, outcome.carry.data + n * size, size * sizeof(float));
    index[undecided++] = index[n];
  }
  return static_cast<int>(undecided);
}

void run_cascade(std::span<const Stage> stages, View input, CascadeMemory& memory,
                 std::span<Decision> decisions) noexcept {
  assert(decisions.size() == static_cast<std::size_t>(input.batch));
  std::iota(memory.index.begin(), memory.index.begin() + input.batch, 0);
  std::fill_n(memory.streaks.begin(), input.batch, Streak{});
  for (std::size_t s = 0; s < stages.size() && input.batch > 0; ++s) {
    std::vector<Streak>& streaks = memory.stages[s].streaks;
    for (int n = 0; n < input.batch; ++n) {
      const auto at = static_cast<std::size_t>(n);
      streaks[at] = memory.streaks[static_cast<std::size_t>(memory.index[at])];
    }
    const Stage::Outcome outcome = stages[s].step(input, memory.stages[s]);
    // Those of undecided samples are replaced by the next stage.
    for (std::size_t n = 0; n < outcome.decisions.size(); ++n) {
      const auto sample = static_cast<std::size_t>(memory.index[n]);
      decisions[sample] = outcome.decisions[n];
      memory.streaks[sample] = streaks[n];
    }
    const int undecided = pack_undecided(stages[s], outcome, memory.index, memory.survivors.data());
    input = {memory.survivors.data(), undecided, outcome.carry.shape};
  }
}

}  // namespace offramp
