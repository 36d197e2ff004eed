// How many samples a second one stage of a model computes in batches, alone in one thread: what a
// busy node is measured against (bench/network.py).
//
//   stage_bench MODEL STAGE BATCH [SECONDS]      STAGE counts from 0; one number on standard output
//
// A sample's decision in a batch is compared with the one it gets alone before anything is timed.
// Exit codes: 0 done, 1 anything else.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cascade.h"
#include "engine/model.h"

namespace offramp {
namespace {

using Clock = std::chrono::steady_clock;

int parse_count(const char* what, std::string_view text, int least) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least)
    throw std::runtime_error(std::string(what) + ": wanted a number from " + std::to_string(least) +
                             ", found '" + std::string(text) + "'");
  return value;
}

// As behind a ReLU.
std::vector<float> activations(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = std::max(0.0f, normal(random));
  return values;
}

bool same_answer(const Decision& one, const Decision& other) {
  return one.label == other.label && std::abs(one.probability - other.probability) < 1e-4f;
}

double samples_per_second(const std::string& path, int index, int batch, int seconds) {
  const Model model = load_model(path);
  PlanOptions options = plan_options_from_environment();
  options.max_batch = batch;
  const std::vector<Stage> stages = make_stages(model, {}, options);
  if (static_cast<std::size_t>(index) >= stages.size())
    throw std::runtime_error("wanted a stage below " + std::to_string(stages.size()) + ", found " +
                             std::to_string(index));
  const Stage& stage = stages[static_cast<std::size_t>(index)];
  const Shape shape = stage.plan().input_shape();
  const std::vector<float> values = activations(shape.elements() * static_cast<std::size_t>(batch));
  const View input{.data = values.data(), .batch = batch, .shape = shape};
  StageMemory memory = stage.make_memory(), single = stage.make_memory();
  const Decision together = stage.step(input, memory).decisions.back();
  const Decision alone = stage.step(input.slice(batch - 1, 1), single).decisions[0];
  if (!same_answer(together, alone))
    throw std::runtime_error("wanted the answer of a sample alone, found another in the batch");

  std::vector<Clock::duration> times;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(seconds);
  do {
    const Clock::time_point start = Clock::now();
    stage.step(input, memory);
    times.push_back(Clock::now() - start);
  } while (Clock::now() < end);
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  return batch / std::chrono::duration<double>(times[times.size() / 2]).count();
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  using namespace offramp;
  try {
    if (argc < 4 || argc > 5)
      throw std::runtime_error("wanted MODEL STAGE BATCH [SECONDS], found " +
                               std::to_string(argc - 1) + " arguments");
    const int seconds = argc == 5 ? parse_count("SECONDS", argv[4], 1) : 1;
    std::printf("%.1f\n", samples_per_second(argv[1], parse_count("STAGE", argv[2], 0),
                                             parse_count("BATCH", argv[3], 1), seconds));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stage_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
