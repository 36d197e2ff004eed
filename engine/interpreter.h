// The slow twin of Plan: walks the graph layer by layer with the reference kernels, in PyTorch's
// layout.
#pragma once

#include <span>
#include <vector>

#include "engine/graph.h"

namespace offramp {

/// Every value of the graph, indexed by ValueId, each float[channels, height, width].
using Values = std::vector<std::vector<float>>;

/// Runs all layers on one sample, float[channels, height, width]. Takes plain and fused graphs.
Values interpret(const Graph& graph, std::span<const float> input);

}  // namespace offramp
