// Graphs for tests: a builder with owned random weights, and random networks made with it.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "engine/model.h"

namespace offramp::test {

/// Repeatable random floats, uniform in [low, high).
std::vector<float> random_floats(std::mt19937& random, std::size_t count, float low = -1.0f,
                                 float high = 1.0f);

/// Appends layers with random weights, named after their op and position. Weights live as long as
/// the builder and everything that shares `storage`.
class GraphBuilder {
 public:
  GraphBuilder(Shape input, std::uint32_t seed);

  ValueId conv(ValueId x, int out, int kernel, int stride = 1, int padding = 0, int groups = 1,
               bool bias = true, int dilation = 1);
  ValueId linear(ValueId x, int out);
  ValueId batch_norm(ValueId x);
  ValueId relu(ValueId x) { return append(Relu{}, {x}); }
  ValueId add(ValueId a, ValueId b) { return append(Add{}, {a, b}); }
  /// Any layer without weights.
  ValueId append(const Op& op, std::vector<ValueId> inputs);
  void exit(ValueId logits, float threshold = 0.5f);

  const Shape& shape(ValueId value) const { return graph_.values[static_cast<std::size_t>(value)]; }
  const Graph& graph() const { return graph_; }
  std::mt19937& random() { return random_; }

 private:
  std::span<const float> weights(std::size_t count, float low, float high);

  Graph graph_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<std::vector<float>>> storage_;
};

/// A network with residual blocks, branches, pools, concatenations and `exits` exits; every op
/// occurs in some of them.
void build_random_network(GraphBuilder& builder, int exits);

/// A model around a graph, with classes c0, c1, ... The graph's weights must outlive it.
Model make_model(const Graph& graph);

}  // namespace offramp::test
