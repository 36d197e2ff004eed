// Rewrites a graph, once, into fewer and heavier layers that give the same answers.
#pragma once

#include <vector>

#include "engine/graph.h"

namespace offramp {

/// A rewritten graph and the weights it no longer shares with the model file. The other weights
/// still point into the model, which must outlive it.
struct FusedGraph {
  Graph graph;
  std::vector<Buffer> storage;
};

/// Batch norms that follow a convolution or a linear layer go into its weights; a sum goes into the
/// convolution that makes one of its terms (Conv2d with a second input, the skip); a ReLU goes into
/// the convolution, linear layer or sum before it; layers that no exit needs are dropped. Values
/// that exits or several layers read stay as they are. Throws Error{kBadModel} where a folded
/// weight is no longer finite.
FusedGraph fuse(const Graph& graph);

}  // namespace offramp
