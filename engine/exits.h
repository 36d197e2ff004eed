// Answers, and when one is good enough to be given.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

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

/// What an exit's doubt is measured by; each is in [0, 1], and 0 is certainty.
enum class Criterion : std::uint8_t {
  kEntropy,      ///< H / ln(classes): BranchyNet (Teerapittayanon et al. 2016, section III)
  kProbability,  ///< 1 - the largest probability
  kMargin,       ///< 1 - (the largest - the second largest probability)
  kPatience,  ///< 1 / exits in a row that say the same: PABEE (Zhou et al. 2020), k = 1/doubt - 1
};
inline constexpr std::size_t kCriterionCount = 4;
/// "entropy", "probability", "margin", "patience".
const char* criterion_name(Criterion criterion);
std::optional<Criterion> criterion_named(std::string_view name);

inline constexpr float kLeastTemperature = 0.01f, kMostTemperature = 100.0f;

/// When an exit answers: when its doubt is below a threshold. A NaN is never sure.
struct ExitRule {
  float threshold = 0.0f;  ///< in [0, 1]; 0 never answers
  Criterion criterion = Criterion::kEntropy;
  /// The logits are divided by it before their softmax: probabilities and doubt change, labels do
  /// not.
  float temperature = 1.0f;

  bool sure(float doubt) const { return doubt < threshold; }
  bool operator==(const ExitRule&) const = default;
};

/// Exits in a row, up to the last one asked, that have said the same.
struct Streak {
  int label = -1;
  int exits = 0;

  /// What the next exit says. One whose numbers are not finite says nothing.
  void add(const Decision& next);
};

/// Softmax, argmax (the first of equals) and entropy of one sample's logits. Writes the softmax to
/// `probabilities`, which has the length of `logits`.
Decision decide(const KernelTable& kernels, std::span<const float> logits, int exit,
                std::span<float> probabilities, float temperature = 1.0f);

/// `decision` and `probabilities` are what decide() said, `streak` holds it already. NaN when the
/// entropy is.
float doubt(Criterion criterion, const Decision& decision, std::span<const float> probabilities,
            const Streak& streak);

}  // namespace offramp
