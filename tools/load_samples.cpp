#include "tools/load_samples.h"

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "engine/error.h"

namespace offramp::cli {
namespace {

// A hundred times what instruction sets and algorithms differ by.
constexpr float kRounding = 1e-4f;

class SampleMaker {
 public:
  SampleMaker(std::span<const Stage> stages, const LoadSampleOptions& options)
      : stages_(stages), options_(options), memory_(make_cascade_memory(stages)) {}

  std::size_t input_floats() const { return stages_[0].plan().input_shape().elements(); }

  // False: the picture gets no further than the device, or edge, that this stands for.
  bool make(std::span<const float> picture, LoadSample& sample) {
    sample.exits.resize(stages_.size());
    sample.taken = -1;
    View input{.data = picture.data(), .batch = 1, .shape = stages_[0].plan().input_shape()};
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (i > 0) input = crossed(input, i, sample);
      const Stage::Outcome outcome = stages_[i].step(input, memory_.stages[i]);
      const Decision& decision = outcome.decisions[0];
      const bool behind_cut = i >= static_cast<std::size_t>(options_.cut);
      if (behind_cut) sample.exits[i] = decision;
      if (stages_[i].answers(decision)) {
        if (!behind_cut && !options_.all) return false;
        if (behind_cut && sample.taken < 0) sample.taken = static_cast<int>(i);
      }
      input = outcome.carry;
    }
    return true;
  }

 private:
  // The tensor at the cut before stage `next` as the other side reads it.
  View crossed(const View& carry, std::size_t next, LoadSample& sample) {
    WireTensor tensor = encode_tensor(carry, options_.format);
    received_ = Buffer(carry.shape.elements());
    const std::span<float> out(received_.data(), received_.size());
    if (const auto error = decode_tensor(tensor, carry.shape, out))
      throw Error(ErrorKind::kBadData, "load: cut " + std::to_string(next) + ": " +
                                           describe(*error, tensor, carry.shape));
    if (next == static_cast<std::size_t>(options_.cut)) sample.tensor = std::move(tensor);
    return {.data = received_.data(), .batch = 1, .shape = carry.shape};
  }

  std::span<const Stage> stages_;
  const LoadSampleOptions& options_;
  CascadeMemory memory_;
  Buffer received_;
};

}  // namespace

std::vector<LoadSample> make_load_samples(
    std::span<const Stage> stages, const LoadSampleOptions& options, std::size_t count,
    const std::function<void(std::size_t index, std::span<float> input)>& picture) {
  SampleMaker maker(stages, options);
  Buffer input(maker.input_floats());
  const std::span<float> pixels(input.data(), input.size());
  std::vector<LoadSample> samples;
  for (std::size_t i = 0; i < count; ++i) {
    picture(i, pixels);
    LoadSample sample;
    if (maker.make(pixels, sample)) samples.push_back(std::move(sample));
  }
  if (samples.empty())
    throw Error(ErrorKind::kBadData, "load: wanted pictures that get as far as cut " +
                                         std::to_string(options.cut) + ", found none among " +
                                         std::to_string(count) + "; --all sends the others, too");
  return samples;
}

bool right_answer(const LoadSample& sample, const Decision& decision, bool degraded) {
  const auto exit = static_cast<std::size_t>(decision.exit);
  if (decision.exit < 0 || exit >= sample.exits.size()) return false;
  if (!degraded && decision.exit != sample.taken) return false;
  const Decision& right = sample.exits[exit];
  return decision.label == right.label &&
         std::abs(decision.probability - right.probability) <= kRounding &&
         std::abs(decision.entropy - right.entropy) <= kRounding;
}

}  // namespace offramp::cli
