#include "engine/tuning.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "engine/partition.h"
#include "engine/passes.h"
#include "engine/thread_pool.h"

namespace offramp {
namespace {

// Enough rounds for a steady median; large networks, which are less noisy, get fewer. In each of
// them a candidate first runs unmeasured, until the caches are as it leaves them itself: one run
// does not push the others' weights out of a last-level cache.
constexpr int kLeastRounds = 3;
constexpr int kMostRounds = 15;
constexpr int kWarmRuns = 4;
constexpr int kMeasuredRuns = 3;
constexpr std::chrono::seconds kDuration{2};

constexpr ConvAlgorithm kCandidates[] = {ConvAlgorithm::kDirect, ConvAlgorithm::kWinograd2,
                                         ConvAlgorithm::kWinograd4, ConvAlgorithm::kWinograd6,
                                         ConvAlgorithm::kIm2col};

/// A segment compiled with one algorithm throughout.
struct Candidate {
  Plan plan;
  Workspace workspace;
  std::vector<StepInfo> steps;
  std::vector<std::vector<double>> ns;  ///< [step][measured run]
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<Candidate> compile_all(const Graph& graph, const Segment& segment,
                                   PlanOptions options) {
  std::vector<Candidate> candidates;
  for (const ConvAlgorithm algorithm : kCandidates) {
    options.convolution = algorithm;
    options.paths = {};
    Plan plan = Plan::compile(graph, segment, options);
    Workspace workspace = plan.make_workspace();
    std::vector<StepInfo> steps = plan.steps();
    std::vector<std::vector<double>> ns(steps.size());
    candidates.push_back({std::move(plan), std::move(workspace), std::move(steps), std::move(ns)});
  }
  return candidates;
}

void measure(std::vector<Candidate>& candidates, const PlanOptions& options) {
  const Shape shape = candidates.front().plan.input_shape();
  std::vector<float> input(shape.elements() * static_cast<std::size_t>(options.max_batch));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : input) value = normal(random);
  ThreadPool pool(options.threads);
  const View view{input.data(), options.max_batch, shape};
  const auto end = std::chrono::steady_clock::now() + kDuration;
  for (int round = 0; round < kMostRounds; ++round) {
    if (round >= kLeastRounds && std::chrono::steady_clock::now() > end) break;
    for (Candidate& it : candidates) {
      for (int run = 0; run < kWarmRuns; ++run) it.plan.run(view, it.workspace, &pool);
      for (int run = 0; run < kMeasuredRuns; ++run) {
        StepClock clock(static_cast<int>(it.steps.size()), options.threads);
        it.plan.run(view, it.workspace, &pool, &clock);
        for (std::size_t i = 0; i < it.steps.size(); ++i) {
          it.ns[i].push_back(clock.nanoseconds(static_cast<int>(i)));
        }
      }
    }
  }
}

}  // namespace

ConvPaths tune(const Model& model, const PlanOptions& options) {
  const FusedGraph fused = fuse(model.graph);
  ConvPaths paths;
  for (const Segment& segment : split_at_exits(fused.graph)) {
    std::vector<Candidate> candidates = compile_all(fused.graph, segment, options);
    measure(candidates, options);
    for (std::size_t i = 0; i < candidates.front().steps.size(); ++i) {
      const StepInfo& step = candidates.front().steps[i];
      if (step.algorithm.empty()) continue;
      const auto faster = [i](const Candidate& a, const Candidate& b) {
        return median(a.ns[i]) < median(b.ns[i]);
      };
      const auto best = std::min_element(candidates.begin(), candidates.end(), faster);
      paths.emplace(step.layer, best->steps[i].path);
    }
  }
  return paths;
}

}  // namespace offramp
