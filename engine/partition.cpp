#include "engine/partition.h"

#include <algorithm>

#include "engine/error.h"

namespace offramp {
namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Which layers a value depends on.
std::vector<bool> ancestors(const Graph& graph, ValueId value) {
  const std::vector<int> producer = producers(graph);
  std::vector<bool> needed(graph.layers.size(), false);
  std::vector<ValueId> open{value};
  while (!open.empty()) {
    const int layer = producer[at(open.back())];
    open.pop_back();
    if (layer < 0 || needed[at(layer)]) continue;
    needed[at(layer)] = true;
    for (ValueId id : graph.layers[at(layer)].inputs) open.push_back(id);
  }
  return needed;
}

// The layers on the way to the last exit, in order.
std::vector<int> trunk_layers(const Graph& graph) {
  const std::vector<bool> trunk = ancestors(graph, graph.exits.back().logits);
  std::vector<int> result;
  for (std::size_t i = 0; i < trunk.size(); ++i) {
    if (trunk[i]) result.push_back(static_cast<int>(i));
  }
  return result;
}

// Throws unless everything the segment reads is made in it or is its input.
void check_closed(const Graph& graph, const Segment& segment) {
  std::vector<bool> known(graph.values.size(), false);
  known[at(segment.input)] = true;
  for (int index : segment.layers) {
    const Layer& layer = graph.layers[at(index)];
    for (ValueId id : layer.inputs) {
      if (known[at(id)]) continue;
      throw Error(ErrorKind::kBadModel,
                  "exit " + graph.exits[at(segment.exit)].name +
                      ": wanted one tensor across the cut, found that layer " + layer.name +
                      " reads a second one");
    }
    known[at(layer.output)] = true;
  }
  // An earlier segment may have made the logits already, on the way to its own exit.
  const Exit& exit = graph.exits[at(segment.exit)];
  if (!known[at(exit.logits)] || exit.logits == segment.input) {
    throw Error(ErrorKind::kBadModel,
                "exit " + exit.name + ": wanted logits of its own, found them in the tier before");
  }
  if (segment.carry != kNoValue && !known[at(segment.carry)]) {
    throw Error(ErrorKind::kBadModel, "exit " + exit.name + ": wanted a cut that it can hand on");
  }
}

}  // namespace

std::vector<ValueId> legal_cuts(const Graph& graph) {
  const std::vector<int> trunk = trunk_layers(graph);
  // How far along the trunk each value is still read.
  std::vector<int> last_reader(graph.values.size(), -1);
  for (std::size_t i = 0; i < trunk.size(); ++i) {
    for (ValueId id : graph.layers[at(trunk[i])].inputs) last_reader[at(id)] = static_cast<int>(i);
  }
  std::vector<ValueId> cuts{0};
  int open_until = last_reader[0];  // the furthest reader of all values but the newest
  for (std::size_t i = 0; i < trunk.size(); ++i) {
    const ValueId value = graph.layers[at(trunk[i])].output;
    if (open_until <= static_cast<int>(i)) cuts.push_back(value);
    open_until = std::max(open_until, last_reader[at(value)]);
  }
  return cuts;
}

std::vector<Segment> split_at_exits(const Graph& graph) {
  const std::vector<int> producer = producers(graph);
  const std::vector<int> trunk = trunk_layers(graph);
  const std::vector<ValueId> cuts = legal_cuts(graph);
  std::vector<bool> on_trunk(graph.layers.size(), false);
  for (int index : trunk) on_trunk[at(index)] = true;

  std::vector<Segment> segments;
  std::vector<bool> taken(graph.layers.size(), false);
  for (std::size_t e = 0; e < graph.exits.size(); ++e) {
    Segment segment;
    segment.exit = static_cast<int>(e);
    segment.input = segments.empty() ? 0 : segments.back().carry;
    const bool last = e + 1 == graph.exits.size();
    const std::vector<bool> needed = ancestors(graph, graph.exits[e].logits);

    // The branch hangs on the trunk here, or further on; so the cut lies here or further on.
    int branch_point = producer[at(segment.input)];
    for (std::size_t i = 0; i < needed.size(); ++i) {
      if (needed[i] && on_trunk[i]) branch_point = std::max(branch_point, static_cast<int>(i));
    }
    if (!last) {
      const auto cut = std::find_if(cuts.begin(), cuts.end(),
                                    [&](ValueId v) { return producer[at(v)] >= branch_point; });
      if (cut == cuts.end() || *cut == graph.exits.back().logits) {
        throw Error(ErrorKind::kBadModel,
                    "exit " + graph.exits[e].name +
                        ": wanted a place to cut between it and the last exit, found none");
      }
      segment.carry = *cut;
    }
    const int end = last ? static_cast<int>(graph.layers.size()) : producer[at(segment.carry)] + 1;
    for (std::size_t i = 0; i < graph.layers.size(); ++i) {
      const bool in_trunk = on_trunk[i] && static_cast<int>(i) < end;
      if (taken[i] || !(in_trunk || needed[i])) continue;
      taken[i] = true;
      segment.layers.push_back(static_cast<int>(i));
      segment.macs += macs(graph, graph.layers[i]);
    }
    check_closed(graph, segment);
    segments.push_back(std::move(segment));
  }
  return segments;
}

}  // namespace offramp
