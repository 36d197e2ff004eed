#include "engine/exits.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace offramp {
namespace {

// Nobody clears the streaks of a memory whose rules do not ask for them.
constexpr int kMostExits = 1 << 20;

constexpr const char* kNames[kCriterionCount] = {"entropy", "probability", "margin", "patience"};

float largest_but(std::span<const float> values, std::size_t but) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (i != but) largest = std::max(largest, values[i]);
  return largest;
}

}  // namespace

const char* criterion_name(Criterion criterion) {
  return kNames[static_cast<std::size_t>(criterion)];
}

std::optional<Criterion> criterion_named(std::string_view name) {
  for (std::size_t i = 0; i < kCriterionCount; ++i)
    if (name == kNames[i]) return static_cast<Criterion>(i);
  return std::nullopt;
}

void Streak::add(const Decision& next) {
  if (std::isnan(next.entropy)) {
    *this = {};
    return;
  }
  exits = next.label == label ? std::min(exits + 1, kMostExits) : 1;
  label = next.label;
}

Decision decide(const KernelTable& kernels, std::span<const float> logits, int exit,
                std::span<float> probabilities, float temperature) {
  const int classes = static_cast<int>(logits.size());
  if (temperature == 1.0f) {
    kernels.softmax(classes, logits.data(), probabilities.data());
  } else {
    std::ranges::transform(logits, probabilities.begin(),
                           [temperature](float logit) { return logit / temperature; });
    kernels.softmax(classes, probabilities.data(), probabilities.data());
  }
  const auto best = std::max_element(logits.begin(), logits.end());
  Decision decision;
  decision.label = static_cast<int>(best - logits.begin());
  decision.probability = probabilities[static_cast<std::size_t>(decision.label)];
  decision.entropy =
      kernels.entropy(classes, probabilities.data()) / std::log(static_cast<float>(classes));
  // Rounding may leave the entropy of equal logits a little above 1. A NaN stays one.
  if (decision.entropy > 1.0f) decision.entropy = 1.0f;
  decision.exit = exit;
  return decision;
}

float doubt(Criterion criterion, const Decision& decision, std::span<const float> probabilities,
            const Streak& streak) {
  if (std::isnan(decision.entropy)) return decision.entropy;
  switch (criterion) {
    case Criterion::kEntropy:
      return decision.entropy;
    case Criterion::kProbability:
      return 1.0f - decision.probability;
    case Criterion::kMargin:
      return 1.0f - (decision.probability -
                     largest_but(probabilities, static_cast<std::size_t>(decision.label)));
    case Criterion::kPatience:
      return 1.0f / static_cast<float>(streak.exits);
  }
  return decision.entropy;
}

}  // namespace offramp
