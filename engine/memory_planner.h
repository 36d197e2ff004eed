// Static memory planning: where in one arena each tensor lives, given when it is needed.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace offramp {

/// A tensor is written in step `first` and read for the last time in step `last` (both inclusive).
struct Lifetime {
  int first = 0;
  int last = 0;
  std::size_t floats = 0;
};

struct Placement {
  std::vector<std::size_t> offsets;  ///< in floats, one per lifetime
  std::size_t floats = 0;            ///< size of the arena
};

/// Places tensors so that those alive in the same step never overlap. Greedy by size (Pisarchyk and
/// Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", algorithm 3): the largest
/// first, each in the tightest gap among those already placed that live at the same time. Offsets
/// are multiples of `alignment` floats.
Placement place(std::span<const Lifetime> lifetimes, std::size_t alignment);

}  // namespace offramp
