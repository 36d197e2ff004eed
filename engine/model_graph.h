// The graph of a model file: metadata `offramp.graph` and `offramp.exits` (weights/FORMAT.md).
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/graph.h"
#include "engine/safetensors.h"

namespace offramp {

/// Most layers accepted.
inline constexpr std::size_t kMaxLayers = 10'000;
/// Largest value accepted, in elements of one sample; bounds what the engine may allocate for it.
inline constexpr std::size_t kMaxValueElements = std::size_t{1} << 26;

/// Builds layers, values and exits, checks every attribute and every weight's shape, and that all
/// tensors are used. Values of weights are not looked at but for the variances' sign. Throws
/// Error{kBadModel} that begins with `origin`.
Graph read_graph(const nlohmann::json& layers, const nlohmann::json& exits, const Shape& input,
                 const std::map<std::string, Tensor>& tensors, const std::string& origin);

}  // namespace offramp
