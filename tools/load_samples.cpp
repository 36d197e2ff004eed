#include "tools/load_samples.h"

#include <algorithm>
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
      : stages_(stages),
        options_(options),
        cut_(static_cast<std::size_t>(options.cut)),
        memory_(make_cascade_memory(stages)) {}

  std::size_t input_floats() const { return stages_[0].plan().input_shape().elements(); }

  // False: the picture gets no further than the device, or edge, that this stands for.
  bool make(std::span<const float> picture, LoadSample& sample) {
    View input{.data = picture.data(), .batch = 1, .shape = stages_[0].plan().input_shape()};
    for (std::size_t i = 0; i < cut_; ++i) {
      const Stage::Outcome outcome = stages_[i].step(input, memory_.stages[i]);
      if (stages_[i].answers(outcome.doubts[0]) && !options_.all) return false;
      sample.tensor = encode_tensor(outcome.carry, options_.format);
      input = cross(sample.tensor, i + 1, before_cut_);
    }
    // The last stage hands nothing on.
    const bool one_stage = cut_ + 1 == stages_.size();
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel}) {
      sample.answers.push_back(answers_to(input, dtype));
      if (one_stage) break;
    }
    return true;
  }

 private:
  LoadAnswers answers_to(View input, DType dtype) {
    LoadAnswers answers{.exits = std::vector<Decision>(stages_.size()), .taken = -1};
    for (std::size_t i = cut_; i < stages_.size(); ++i) {
      const Stage::Outcome outcome = stages_[i].step(input, memory_.stages[i]);
      answers.exits[i] = outcome.decisions[0];
      if (answers.taken < 0 && stages_[i].answers(outcome.doubts[0]))
        answers.taken = static_cast<int>(i);
      if (!stages_[i].last())
        input = cross(encode_tensor(outcome.carry, {.dtype = dtype}), i + 1, behind_cut_);
    }
    return answers;
  }

  // The tensor as the other side of a cut reads it.
  static View cross(const WireTensor& tensor, std::size_t cut, Buffer& received) {
    received = Buffer(tensor.shape.elements());
    const std::span<float> out(received.data(), received.size());
    if (const auto error = decode_tensor(tensor, tensor.shape, out))
      throw Error(ErrorKind::kBadData, "load: cut " + std::to_string(cut) + ": " +
                                           describe(*error, tensor, tensor.shape));
    return {.data = received.data(), .batch = 1, .shape = tensor.shape};
  }

  std::span<const Stage> stages_;
  const LoadSampleOptions& options_;
  std::size_t cut_;
  CascadeMemory memory_;
  Buffer before_cut_, behind_cut_;
};

bool right_answer(const LoadAnswers& answers, const Decision& decision, bool degraded) {
  const auto exit = static_cast<std::size_t>(decision.exit);
  if (decision.exit < 0 || exit >= answers.exits.size()) return false;
  if (!degraded && decision.exit != answers.taken) return false;
  const Decision& right = answers.exits[exit];
  return decision.label == right.label &&
         std::abs(decision.probability - right.probability) <= kRounding &&
         std::abs(decision.entropy - right.entropy) <= kRounding;
}

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
  return std::ranges::any_of(sample.answers, [&](const LoadAnswers& answers) {
    return right_answer(answers, decision, degraded);
  });
}

}  // namespace offramp::cli
