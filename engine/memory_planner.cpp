#include "engine/memory_planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace offramp {
namespace {

struct Block {
  std::size_t begin, end;
};

// The tightest gap of at least `size` between `blocks` (sorted by begin), or the place after them.
std::size_t tightest_gap(const std::vector<Block>& blocks, std::size_t size) {
  std::size_t best = 0, best_gap = std::numeric_limits<std::size_t>::max();
  bool found = false;
  std::size_t end = 0;
  for (const Block& block : blocks) {
    if (block.begin >= end + size && block.begin - end < best_gap) {
      best = end;
      best_gap = block.begin - end;
      found = true;
    }
    end = std::max(end, block.end);
  }
  return found ? best : end;
}

}  // namespace

Placement place(std::span<const Lifetime> lifetimes, std::size_t alignment) {
  std::vector<std::size_t> order(lifetimes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return lifetimes[a].floats > lifetimes[b].floats;
  });

  Placement result;
  result.offsets.resize(lifetimes.size());
  std::vector<std::size_t> placed;
  for (std::size_t i : order) {
    std::vector<Block> blocks;
    for (std::size_t other : placed) {
      const bool together = lifetimes[i].first <= lifetimes[other].last &&
                            lifetimes[other].first <= lifetimes[i].last;
      if (!together) continue;
      const std::size_t begin = result.offsets[other];
      const std::size_t size = (lifetimes[other].floats + alignment - 1) / alignment * alignment;
      blocks.push_back({begin, begin + size});
    }
    std::sort(blocks.begin(), blocks.end(),
              [](const Block& a, const Block& b) { return a.begin < b.begin; });
    result.offsets[i] = tightest_gap(blocks, lifetimes[i].floats);
    result.floats = std::max(result.floats, result.offsets[i] + lifetimes[i].floats);
    placed.push_back(i);
  }
  return result;
}

}  // namespace offramp
