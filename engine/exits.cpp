#include "engine/exits.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace offramp {

Decision decide(const KernelTable& kernels, std::span<const float> logits, int exit,
                std::span<float> probabilities) {
  const int classes = static_cast<int>(logits.size());
  kernels.softmax(classes, logits.data(), probabilities.data());
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

}  // namespace offramp
