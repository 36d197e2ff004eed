#include "engine/chunking.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace offramp {
namespace {

// Floats that a sample moves past the cache in the steps of a chunk, apart from its weights.
double activation_cost(const Traffic& step, int samples, double cache) {
  const double floats = static_cast<double>(step.activation_floats);
  return floats * samples > cache ? floats : 0.0;
}

// Each weight is read once by every visit if the chunk's weights crowd each other out, or else by
// the first one only.
double weight_cost(double weights, int samples, int batch, double cache) {
  return weights / (weights > cache ? samples : batch);
}

}  // namespace

std::vector<Chunk> divide(std::span<const Traffic> steps, int batch, std::size_t cache_floats) {
  assert(batch >= 1);
  const int count = static_cast<int>(steps.size());
  const double cache = static_cast<double>(cache_floats);
  const auto step = [&](int i) -> const Traffic& { return steps[static_cast<std::size_t>(i)]; };
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
      if (handed * batch > cache) begin += 2.0 * handed;
    }
    for (const int samples : sizes) {
      double weights = 0.0, activations = 0.0;
      for (int end = first + 1; end <= count; ++end) {
        const Traffic& added = step(end - 1);
        const bool alone = added.alone && samples == batch && end == first + 1;
        if (added.alone && !alone) break;
        weights += static_cast<double>(added.weight_floats);
        activations += activation_cost(added, samples, cache);
        const double cost = begin + activations + weight_cost(weights, samples, batch, cache);
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
