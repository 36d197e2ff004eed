#include "engine/chunking.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace offramp {
namespace {

// Prices of a float, measured on a core with a second-level cache of 512 KiB (Zen 3). Weights are
// read in order and fetched ahead, which hides most of the way from a last-level cache, but less of
// that from memory. Activations are read and written in many streams. What one chunk writes for the
// next fetches each line before it writes it, pushes others out, and comes back later.
constexpr double kNearWeight = 1.0;
constexpr double kFarWeight = 12.0;
constexpr double kActivation = 4.0;
constexpr double kHandedOn = 40.0;

/// Costs of a chunk that grows step by step, for one sample.
class ChunkCost {
 public:
  ChunkCost(int samples, int batch, double cache, double weight_price)
      : samples_(samples), batch_(batch), cache_(cache), weight_price_(weight_price) {}

  void add(const StepTraffic& step) {
    const double activations = static_cast<double>(step.activation_floats);
    const double held = activations * samples_ + static_cast<double>(step.scratch_floats);
    weights_ += static_cast<double>(step.weight_floats);
    largest_ = std::max(largest_, held);
    if (held > cache_) moved_ += kActivation * activations;
  }

  // Weights that fit beside the largest step are read once for the batch, others at every visit.
  double total() const {
    const bool stay = weights_ + largest_ <= cache_;
    return moved_ + weight_price_ * weights_ / (stay ? batch_ : samples_);
  }

 private:
  int samples_, batch_;
  double cache_;
  double weight_price_;
  double weights_ = 0.0, largest_ = 0.0, moved_ = 0.0;
};

}  // namespace

std::vector<Chunk> divide(std::span<const StepTraffic> steps, int batch, std::size_t cache_floats) {
  assert(batch >= 1);
  const int count = static_cast<int>(steps.size());
  const double cache = static_cast<double>(cache_floats);
  const auto step = [&](int i) -> const StepTraffic& { return steps[static_cast<std::size_t>(i)]; };
  double all_weights = 0.0;
  for (const StepTraffic& it : steps) all_weights += static_cast<double>(it.weight_floats);
  const double weight_price =
      all_weights > static_cast<double>(kLastLevelFloats) ? kFarWeight : kNearWeight;
  std::vector<int> sizes;
  for (int samples = 1; samples < batch; samples *= 2) sizes.push_back(samples);
  sizes.push_back(batch);

  // least[end]: the least cost of the steps before `end`, with the last chunk that reaches it.
  struct Best {
    double cost = std::numeric_limits<double>::infinity();
    Chunk last;
  };
  std::vector<Best> least(static_cast<std::size_t>(count) + 1);
  least[0].cost = 0.0;
  for (int first = 0; first < count; ++first) {
    double begin = least[static_cast<std::size_t>(first)].cost;
    if (first > 0) {
      const double handed = static_cast<double>(step(first - 1).output_floats);
      if (handed * batch > cache) begin += kHandedOn * handed;
    }
    for (const int samples : sizes) {
      ChunkCost chunk(samples, batch, cache, weight_price);
      for (int end = first + 1; end <= count; ++end) {
        const StepTraffic& added = step(end - 1);
        const bool alone = added.alone && samples == batch && end == first + 1;
        if (added.alone && !alone) break;
        chunk.add(added);
        const double cost = begin + chunk.total();
        Best& best = least[static_cast<std::size_t>(end)];
        if (cost < best.cost) best = {cost, {first, end, samples}};
        if (alone) break;
      }
    }
  }

  std::vector<Chunk> chunks;
  for (int end = count; end > 0; end = chunks.back().first) {
    chunks.push_back(least[static_cast<std::size_t>(end)].last);
  }
  std::reverse(chunks.begin(), chunks.end());
  return chunks;
}

}  // namespace offramp
