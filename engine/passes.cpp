#include "engine/passes.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "engine/error.h"

namespace offramp {
namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// How many layers and exits read each value.
std::vector<int> count_uses(const Graph& graph) {
  std::vector<int> uses(graph.values.size(), 0);
  for (const Layer& layer : graph.layers) {
    for (ValueId id : layer.inputs) ++uses[at(id)];
  }
  for (const Exit& exit : graph.exits) ++uses[at(exit.logits)];
  return uses;
}

void drop_unused(Graph& graph) {
  std::vector<bool> needed(graph.values.size(), false);
  for (const Exit& exit : graph.exits) needed[at(exit.logits)] = true;
  for (auto layer = graph.layers.rbegin(); layer != graph.layers.rend(); ++layer) {
    if (!needed[at(layer->output)]) continue;
    for (ValueId id : layer->inputs) needed[at(id)] = true;
  }
  std::erase_if(graph.layers, [&](const Layer& layer) { return !needed[at(layer.output)]; });
}

// The layer that makes `value` if nothing else than one reader needs it, else nullptr.
Layer* sole_producer(Graph& graph, ValueId value) {
  if (count_uses(graph)[at(value)] != 1) return nullptr;
  const int index = producers(graph)[at(value)];
  return index < 0 ? nullptr : &graph.layers[at(index)];
}

std::span<const float> keep(FusedGraph& fused, const std::vector<float>& values) {
  Buffer buffer(values.size());
  std::copy(values.begin(), values.end(), buffer.data());
  fused.storage.push_back(std::move(buffer));
  return {fused.storage.back().data(), values.size()};
}

// A variance near zero may take a finite weight out of the range of float.
float narrowed(double value, const std::string& layer) {
  if (std::abs(value) <= std::numeric_limits<float>::max()) return static_cast<float>(value);
  throw Error(ErrorKind::kBadModel,
              "layer " + layer +
                  ": wanted finite weights once its batch norm is folded in, found " +
                  std::to_string(value));
}

// weight[row, :] <- weight[row, :] * scale[row]; bias <- bias * scale + shift
template <class Rows>
void scale_rows(FusedGraph& fused, const std::string& layer, const BatchNorm& norm, Rows& op) {
  const std::size_t rows = norm.mean.size();
  const std::size_t columns = op.weight.size() / rows;
  std::vector<float> weight(op.weight.begin(), op.weight.end());
  std::vector<float> bias(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const double deviation = std::sqrt(static_cast<double>(norm.variance[r]) + norm.epsilon);
    const double scale = (norm.weight.empty() ? 1.0 : norm.weight[r]) / deviation;
    const double shift = norm.bias.empty() ? 0.0 : norm.bias[r];
    for (std::size_t c = 0; c < columns; ++c) {
      float& w = weight[r * columns + c];
      w = narrowed(w * scale, layer);
    }
    const double bias_before = op.bias.empty() ? 0.0 : op.bias[r];
    bias[r] = narrowed((bias_before - norm.mean[r]) * scale + shift, layer);
  }
  op.weight = keep(fused, weight);
  op.bias = keep(fused, bias);
}

// The producer takes over the output of `absorbed`, which disappears.
void take_over(Graph& graph, Layer& producer, std::size_t absorbed) {
  producer.output = graph.layers[absorbed].output;
  graph.layers.erase(graph.layers.begin() + static_cast<std::ptrdiff_t>(absorbed));
}

bool fold_batch_norm(FusedGraph& fused, std::size_t index) {
  const Layer layer = fused.graph.layers[index];
  const auto* norm = std::get_if<BatchNorm>(&layer.op);
  Layer* producer = norm ? sole_producer(fused.graph, layer.inputs[0]) : nullptr;
  if (!producer || producer->inputs.size() != 1) return false;
  if (auto* conv = std::get_if<Conv2d>(&producer->op); conv && !conv->relu) {
    scale_rows(fused, producer->name, *norm, *conv);
  } else if (auto* linear = std::get_if<Linear>(&producer->op); linear && !linear->relu) {
    scale_rows(fused, producer->name, *norm, *linear);
  } else {
    return false;
  }
  take_over(fused.graph, *producer, index);
  return true;
}

bool fold_add(Graph& graph, std::size_t index) {
  if (!std::holds_alternative<Add>(graph.layers[index].op)) return false;
  const std::vector<ValueId> terms = graph.layers[index].inputs;
  if (terms[0] == terms[1]) return false;
  // Of two convolutions the later one: its sum is still in registers when the other is long stored.
  Layer* best = nullptr;
  ValueId skip = kNoValue;
  for (std::size_t i = 0; i < 2; ++i) {
    Layer* producer = sole_producer(graph, terms[i]);
    if (!producer || producer->inputs.size() != 1) continue;
    const auto* conv = std::get_if<Conv2d>(&producer->op);
    if (!conv || conv->relu || (best && producer < best)) continue;
    best = producer;
    skip = terms[1 - i];
  }
  if (!best) return false;
  std::get<Conv2d>(best->op).relu = std::get<Add>(graph.layers[index].op).relu;
  best->inputs.push_back(skip);
  best->output = graph.layers[index].output;
  // It moves to the place of the sum, where the other term is sure to be there.
  graph.layers[index] = *best;
  graph.layers.erase(graph.layers.begin() + (best - graph.layers.data()));
  return true;
}

bool fold_relu(Graph& graph, std::size_t index) {
  if (!std::holds_alternative<Relu>(graph.layers[index].op)) return false;
  Layer* producer = sole_producer(graph, graph.layers[index].inputs[0]);
  if (!producer) return false;
  if (auto* conv = std::get_if<Conv2d>(&producer->op)) {
    conv->relu = true;
  } else if (auto* linear = std::get_if<Linear>(&producer->op)) {
    linear->relu = true;
  } else if (auto* add = std::get_if<Add>(&producer->op)) {
    add->relu = true;
  } else {
    return false;
  }
  take_over(graph, *producer, index);
  return true;
}

// Offers every layer to `rule`, which returns true when it removed one; then the next layer has
// moved to the same index.
template <class Rule>
void apply(Graph& graph, Rule rule) {
  for (std::size_t i = 0; i < graph.layers.size();) {
    if (!rule(i)) ++i;
  }
}

}  // namespace

FusedGraph fuse(const Graph& graph) {
  FusedGraph fused{graph, {}};
  drop_unused(fused.graph);
  apply(fused.graph, [&](std::size_t i) { return fold_batch_norm(fused, i); });
  apply(fused.graph, [&](std::size_t i) { return fold_add(fused.graph, i); });
  apply(fused.graph, [&](std::size_t i) { return fold_relu(fused.graph, i); });
  return fused;
}

}  // namespace offramp
