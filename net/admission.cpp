#include "net/admission.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"
#include "net/tensor_codec.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 30;

std::size_t input_bytes(std::span<const Stage> stages, std::size_t index) {
  const Shape shape = stages[index].plan().input_shape();
  const std::optional<std::size_t> bytes = largest_raw_bytes(shape);
  if (!bytes || *bytes > kMaxTensorBytes)
    throw Error(ErrorKind::kBadModel, "stage " + std::to_string(index) +
                                          ": wanted an input of at most 1 GiB, found " +
                                          to_string(shape));
  return *bytes;
}

}  // namespace

Admission::Admission(std::span<const Stage> stages, const WireModelId& model, int first, int count,
                     const std::optional<Preprocess>& pictures)
    : stages_(stages), model_(model), first_(first), count_(count) {
  const auto begin = static_cast<std::size_t>(first), size = static_cast<std::size_t>(count);
  if (first < 0 || count < 1 || begin + size > stages.size())
    throw Error(ErrorKind::kUsage, "node: wanted stages of the model, found " +
                                       std::to_string(count) + " from " + std::to_string(first) +
                                       " on of " + std::to_string(stages.size()));
  limits_.max_classes = static_cast<std::size_t>(stages[0].plan().classes());
  limits_.max_exits = static_cast<int>(stages.size());
  if (pictures) {
    pixels_.emplace(*pictures);
    limits_.max_payload_bytes = stages[0].plan().input_shape().elements();
  }
  for (std::size_t i = begin; i < begin + size; ++i)
    limits_.max_payload_bytes = std::max(limits_.max_payload_bytes, input_bytes(stages, i));
}

bool Admission::serves(std::uint8_t cut, const Shape& shape) const {
  return cut >= first_ && cut < first_ + count_ && shape == stages_[cut].plan().input_shape();
}

bool Admission::is_picture(const Handoff& handoff) const {
  return pixels_ && handoff.cut == 0 && handoff.tensor.dtype == DType::kPixels &&
         handoff.tensor.shape == stages_[0].plan().input_shape();
}

std::optional<Refusal> Admission::refusal(const Hello& hello) const {
  if (hello.model != model_)
    return Refusal{FaultCode::kModelMismatch,
                   "wanted model " + short_id(model_) + ", found " + short_id(hello.model)};
  if (!serves(hello.cut, hello.shape))
    return Refusal{FaultCode::kModelMismatch, "cut " + std::to_string(hello.cut) + " with " +
                                                  to_string(hello.shape) + " is not served here"};
  return {};
}

std::variant<Job, Refusal> Admission::job(const Peer& peer, const Handoff& handoff,
                                          Clock::time_point now) const {
  const bool picture = is_picture(handoff);
  if (handoff.model != model_ || (!picture && !serves(handoff.cut, handoff.tensor.shape)))
    return Refusal{FaultCode::kModelMismatch, "wanted model " + short_id(model_) + ", found " +
                                                  short_id(handoff.model) + " at cut " +
                                                  std::to_string(handoff.cut)};
  const Shape shape = stages_[handoff.cut].plan().input_shape();
  Job job{.peer = peer,
          .request = handoff.request,
          .cut = handoff.cut,
          .hop = handoff.hop,
          .arrived = now,
          .answer_by = now + std::chrono::microseconds(handoff.budget_us),
          .input = Buffer(shape.elements())};
  const std::span<float> input(job.input.data(), shape.elements());
  if (const auto bad = picture ? decode_pixels(handoff.tensor, shape, *pixels_, input)
                               : decode_tensor(handoff.tensor, shape, input))
    return Refusal{FaultCode::kBadTensor, describe(*bad, handoff.tensor, shape)};
  return job;
}

}  // namespace offramp
