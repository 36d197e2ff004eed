// Answers, and when one is good enough to be given.
#pragma once

#include <span>

namespace offramp {

struct KernelTable;

/// An exit's answer for one sample.
struct Decision {
  int label = -1;            ///< index into the model's classes
  float probability = 0.0f;  ///< softmax of the label's logit
  float entropy = 1.0f;      ///< H / ln(classes), in [0, 1]; NaN when the logits are not finite
  int exit = -1;             ///< index of the exit that answered

  bool operator==(const Decision&) const = default;
};

/// BranchyNet's criterion (Teerapittayanon et al. 2016, section III): answer when the entropy of
/// the softmax is below a threshold. A NaN entropy is never sure.
struct ExitRule {
  float threshold = 0.0f;  ///< normalised entropy; 0 never answers

  bool sure(const Decision& decision) const { return decision.entropy < threshold; }
};

/// Softmax, argmax (the first of equals) and entropy of one sample's logits. Writes the softmax to
/// `probabilities`, which has the length of `logits`.
Decision decide(const KernelTable& kernels, std::span<const float> logits, int exit,
                std::span<float> probabilities);

}  // namespace offramp
