#include "tests/test_nodes.h"

#include <doctest/doctest.h>
#include <zmq.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace offramp::test {
namespace {

constexpr Shape kPicture{.channels = 3, .height = 8, .width = 8};

void build(GraphBuilder& builder) {
  const auto head = [&builder](ValueId x) {
    builder.exit(builder.linear(builder.append(GlobalAveragePool{}, {x}), 7));
  };
  ValueId x = builder.relu(builder.conv(0, 8, 3, 1, 1));
  head(x);
  x = builder.relu(builder.conv(x, 12, 3, 2, 1));
  head(x);
  x = builder.relu(builder.conv(x, 16, 3, 2, 1));
  head(x);
}

float middle(std::vector<float> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

SmallCascade::SmallCascade(Thresholds thresholds, int pictures, int batch)
    : batch_(batch), builder_(kPicture, 7) {
  build(builder_);
  model_ = make_model(builder_.graph());
  for (std::size_t i = 0; i < model_.id.size(); ++i)
    model_.id[i] = static_cast<std::uint8_t>(i + 1);
  std::mt19937 random(11);
  pixels_ =
      random_floats(random, static_cast<std::size_t>(pictures) * kPicture.elements(), -3.0f, 3.0f);
  expected_.resize(static_cast<std::size_t>(pictures));
  undecided_ = with_thresholds(0.0f, 0.0f);
  std::vector<float> first, second;
  for (std::size_t i = 0; i < size(); ++i) {
    first.push_back(at_exit(i, 0).entropy);
    second.push_back(at_exit(i, 1).entropy);
  }
  if (thresholds == Thresholds::kNone) stages_ = with_thresholds(0.0f, 0.0f);
  if (thresholds == Thresholds::kMixed) stages_ = with_thresholds(middle(first), middle(second));
  if (thresholds == Thresholds::kAll) stages_ = with_thresholds(1.0f, 1.0f);
  CascadeMemory memory = make_cascade_memory(stages_);
  for (std::size_t i = 0; i < size(); ++i)
    run_cascade(stages_, picture(i), memory, std::span(&expected_[i], 1));
}

std::vector<Stage> SmallCascade::with_thresholds(float first, float second) const {
  const float thresholds[] = {first, second};
  return make_stages(model_, thresholds, PlanOptions{.max_batch = batch_});
}

View SmallCascade::picture(std::size_t index) const {
  return {.data = pixels_.data() + index * kPicture.elements(), .batch = 1, .shape = kPicture};
}

Decision SmallCascade::at_exit(std::size_t index, int exit) const {
  Decision decision;
  View input = picture(index);
  std::vector<StageMemory> memories;
  for (int i = 0; i <= exit; ++i) {
    const Stage& stage = undecided_[static_cast<std::size_t>(i)];
    memories.push_back(stage.make_memory());
    const Stage::Outcome outcome = stage.step(input, memories.back());
    decision = outcome.decisions[0];
    input = outcome.carry;
  }
  return decision;
}

Device::Source SmallCascade::source() const {
  return [this](std::size_t index, std::span<float> input) {
    std::copy_n(picture(index % size()).data, input.size(), input.begin());
    return true;
  };
}

std::vector<Outcome> run_all(Device& device, const SmallCascade& cascade, std::size_t count) {
  if (count == 0) count = cascade.size();
  std::vector<Outcome> outcomes(count);
  std::vector<int> times(count, 0);
  device.run(count, cascade.source(), [&](std::size_t index, const Outcome& outcome) {
    outcomes[index] = outcome;
    ++times[index];
  });
  CHECK(std::ranges::all_of(times, [](int n) { return n == 1; }));
  return outcomes;
}

std::size_t count_reason(const std::vector<Outcome>& outcomes, Reason reason) {
  return static_cast<std::size_t>(std::ranges::count(outcomes, reason, &Outcome::degraded));
}

Hello hello_of(const SmallCascade& cascade) {
  const LinkIdentity identity = link_identity(cascade.stages(), cascade.id(), 1);
  return {.session = 1, .model = identity.model, .cut = 1, .shape = identity.shape};
}

Handoff handoff_of(const SmallCascade& cascade, std::uint64_t counter, float value,
                   const TensorFormat& format) {
  const LinkIdentity identity = link_identity(cascade.stages(), cascade.id(), 1);
  const std::vector<float> values(identity.shape.elements(), value);
  return {.request = make_request_id(1, counter),
          .model = identity.model,
          .cut = 1,
          .attempt = 0,
          .hop = 0,
          .budget_us = 20'000'000,
          .tensor =
              encode_tensor({.data = values.data(), .batch = 1, .shape = identity.shape}, format)};
}

void HeldWork::wait() {
  taken = true;
  while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

RawClient::RawClient(const std::string& endpoint) : socket_(context_, ZMQ_DEALER) {
  socket_.set(ZMQ_LINGER, 1000);
  REQUIRE(zmq_connect(socket_.get(), endpoint.c_str()) == 0);
}

void RawClient::send(std::initializer_list<std::span<const std::uint8_t>> parts) {
  REQUIRE(socket_.send(parts));
}

void RawClient::send(Message message) {
  const Frames frames = encode(std::move(message));
  send({frames.header, frames.payload});
}

std::optional<Message> RawClient::receive(std::chrono::milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  std::vector<Bytes> parts;
  std::size_t count = 0;
  while (!socket_.receive(parts, 2, count)) {
    if (Clock::now() >= until) return {};
    wait_readable({{.socket = socket_.get()}}, until);
  }
  REQUIRE(count == 2);
  auto decoded = decode(parts[0], parts[1],
                        {.max_payload_bytes = 1 << 20, .max_classes = 100, .max_exits = 10});
  REQUIRE(std::holds_alternative<Message>(decoded));
  return std::get<Message>(std::move(decoded));
}

}  // namespace offramp::test
