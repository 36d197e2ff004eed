// What `offramp load` sends, and the right answers to it.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/cascade.h"
#include "net/tensor_codec.h"

namespace offramp::cli {

/// What the tiers behind a cut say of a sample.
struct LoadAnswers {
  std::vector<Decision> exits;  ///< [exits]; those before the cut are unset
  int taken = 0;                ///< the exit that is to answer
};

/// A tensor at a cut, as it crosses there.
struct LoadSample {
  WireTensor tensor;
  /// One for each dtype that the tiers behind the cut may hand on in, for nobody says which it is.
  std::vector<LoadAnswers> answers;
};

struct LoadSampleOptions {
  int cut = 1;            ///< stages before it run here
  TensorFormat format{};  ///< of all tensors that cross up to there
  bool all = false;       ///< pictures that an exit before the cut is sure of are sent, too
};

/// Runs pictures 0..count-1 through all stages. `picture` writes one to float[height, width, 3].
/// Throws Error{kBadData} when no picture gets as far as the cut, or for numbers that the codec
/// cannot say, and what `picture` throws.
std::vector<LoadSample> make_load_samples(
    std::span<const Stage> stages, const LoadSampleOptions& options, std::size_t count,
    const std::function<void(std::size_t index, std::span<float> input)>& picture);

/// Whether an answer is the cascade's, with one dtype or another behind the cut: the same label at
/// the same exit, with the same probability and entropy but for how other instruction sets and
/// batches round. A degraded answer may come from any exit.
bool right_answer(const LoadSample& sample, const Decision& decision, bool degraded);

}  // namespace offramp::cli
