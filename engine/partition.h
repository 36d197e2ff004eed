// Cutting a graph into the pieces of the tiers.
//
// A cut is legal only at a value through which every path from the input to the last exit runs:
// then exactly one tensor crosses. A segment is what one tier computes: a tensor in, one exit, and
// (but for the last segment) a tensor out, the carry.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/graph.h"

namespace offramp {

struct Segment {
  ValueId input = kNoValue;  ///< the previous segment's carry; value 0 for the first
  ValueId carry = kNoValue;  ///< what the next segment reads; kNoValue for the last
  int exit = 0;              ///< index into Graph::exits
  std::vector<int> layers;   ///< indices into Graph::layers, in order
  std::uint64_t macs = 0;    ///< of one sample, the exit's head included
};

/// All values at which the graph may be cut, in execution order, the input first.
std::vector<ValueId> legal_cuts(const Graph& graph);

/// One segment per exit, each cut at the first legal value after everything its exit reads from the
/// trunk. Throws Error{kBadModel} when exits cannot be separated so.
std::vector<Segment> split_at_exits(const Graph& graph);

}  // namespace offramp
