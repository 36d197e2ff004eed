// offramp inspect: what is in a model file, and where it may be cut.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "engine/partition.h"
#include "net/tensor_codec.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using enum Table::Align;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel};

/// The payload, before LZ4.
std::uint64_t bytes_as(DType dtype, const Shape& shape) { return raw_bytes(shape, dtype).value(); }

std::uint64_t float_bytes(const Shape& shape) { return bytes_as(DType::kF32, shape); }

/// The picture as it would be sent instead: one byte a channel and pixel.
std::uint64_t picture_bytes(const Model& model) { return model.preprocess.input.elements(); }

/// Name of the layer that makes a value.
std::string origin(const Graph& graph, const std::vector<int>& makers, ValueId value) {
  const int layer = makers.at(static_cast<std::size_t>(value));
  return layer < 0 ? "input" : graph.layers.at(static_cast<std::size_t>(layer)).name;
}

const Shape& shape_of(const Graph& graph, ValueId value) {
  return graph.values.at(static_cast<std::size_t>(value));
}

struct Totals {
  std::uint64_t parameters = 0;
  std::uint64_t macs = 0;
};

Totals totals(const Graph& graph) {
  Totals sum;
  for (const Layer& layer : graph.layers) {
    sum.parameters += parameters(layer);
    sum.macs += macs(graph, layer);
  }
  return sum;
}

Json bytes_json(const Shape& shape) {
  Json value = Json::object();
  for (const DType dtype : kDTypes) value[dtype_name(dtype)] = bytes_as(dtype, shape);
  return value;
}

Json targets_json(const Model& model) {
  Json targets = Json::array();
  for (const Target& target : model.targets) {
    Json rules = Json::array();
    for (std::size_t i = 0; i < target.rules.size(); ++i) {
      const ExitRule& rule = target.rules[i];
      const bool last = i + 1 == target.rules.size();
      rules.push_back({{"criterion", criterion_name(rule.criterion)},
                       {"threshold", last ? Json() : Json(rule.threshold)},
                       {"temperature", rule.temperature}});
    }
    targets.push_back({{"name", target.name},
                       {"points", target.points},
                       {"confidence", target.confidence},
                       {"rules", rules},
                       {"heldout",
                        {{"pictures", target.held_out.pictures},
                         {"loss", target.held_out.loss},
                         {"shares", target.held_out.shares},
                         {"cost", target.held_out.cost}}}});
  }
  return targets;
}

Json to_json(const Model& model, const std::vector<Stage>& stages) {
  const Graph& graph = model.graph;
  const std::vector<int> makers = producers(graph);
  Json layers = Json::array(), exits = Json::array(), segments = Json::array(),
       cuts = Json::array();
  for (const Layer& layer : graph.layers) {
    Json inputs = Json::array();
    for (ValueId value : layer.inputs) inputs.push_back(origin(graph, makers, value));
    const Shape& shape = shape_of(graph, layer.output);
    layers.push_back({{"name", layer.name},
                      {"op", op_name(layer.op)},
                      {"inputs", inputs},
                      {"shape", {shape.channels, shape.height, shape.width}},
                      {"parameters", parameters(layer)},
                      {"macs", macs(graph, layer)}});
  }
  for (const Exit& exit : graph.exits) {
    const bool last = &exit == &graph.exits.back();
    exits.push_back({{"name", exit.name},
                     {"logits", origin(graph, makers, exit.logits)},
                     {"criterion", last ? Json() : Json(criterion_name(exit.rule.criterion))},
                     {"threshold", last ? Json() : Json(exit.rule.threshold)},
                     {"temperature", exit.rule.temperature}});
  }
  const std::vector<Segment> parts = split_at_exits(graph);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool last = parts[i].carry == kNoValue;
    segments.push_back({{"tier", tier_of(i)},
                        {"exit", graph.exits.at(static_cast<std::size_t>(parts[i].exit)).name},
                        {"layers", parts[i].layers.size()},
                        {"macs", parts[i].macs},
                        {"arena_bytes", stages.at(i).plan().arena_floats() * sizeof(float)},
                        {"carry", last ? Json() : Json(origin(graph, makers, parts[i].carry))},
                        {"carry_bytes", last ? 0 : float_bytes(shape_of(graph, parts[i].carry))}});
  }
  for (ValueId cut : legal_cuts(graph)) {
    cuts.push_back({{"after", origin(graph, makers, cut)},
                    {"shape", to_string(shape_of(graph, cut))},
                    {"bytes", float_bytes(shape_of(graph, cut))},
                    {"bytes_as", bytes_json(shape_of(graph, cut))}});
  }
  const Shape& input = model.preprocess.input;
  const Totals sum = totals(graph);
  return {{"name", model.name},
          {"id", full_id(model.id)},
          {"file_bytes", model.file_bytes},
          {"input", {input.channels, input.height, input.width}},
          {"picture_bytes", picture_bytes(model)},
          {"classes", model.classes},
          {"parameters", sum.parameters},
          {"macs", sum.macs},
          {"exits", exits},
          {"targets", targets_json(model)},
          {"segments", segments},
          {"cuts", cuts},
          {"layers", layers}};
}

std::string heading(const std::string& text) { return "\n" + styled(Style::kBold, text) + "\n"; }

std::string summary(const Model& model) {
  const Totals sum = totals(model.graph);
  std::string names;
  for (const std::string& name : model.classes) {
    if (names.size() > 60) {
      names += ", ...";
      break;
    }
    names += (names.empty() ? "" : ", ") + name;
  }
  const auto line = [](const std::string& key, const std::string& value) {
    return key + std::string(12 - key.size(), ' ') + value + "\n";
  };
  return styled(Style::kBold, model.name) + "\n" + line("id", short_id(model.id)) +
         line("file", format_grouped(model.file_bytes) + " bytes") +
         line("input", to_string(model.preprocess.input)) +
         line("classes", std::to_string(model.classes.size()) + ": " + names) +
         line("layers", std::to_string(model.graph.layers.size())) +
         line("parameters", format_grouped(sum.parameters)) +
         line("MACs", format_macs(static_cast<double>(sum.macs)));
}

std::string layers_text(const Graph& graph) {
  Table table({{"LAYER"}, {"OP"}, {"SHAPE"}, {"PARAMETERS", kRight}, {"MACS", kRight}});
  for (const Layer& layer : graph.layers) {
    table.add({layer.name, op_name(layer.op), to_string(shape_of(graph, layer.output)),
               format_grouped(parameters(layer)),
               format_macs(static_cast<double>(macs(graph, layer)))});
  }
  const Totals sum = totals(graph);
  table.add(
      {"total", "", "", format_grouped(sum.parameters), format_macs(static_cast<double>(sum.macs))},
      Style::kBold);
  return table.text();
}

std::string exits_text(const Model& model) {
  const std::vector<int> makers = producers(model.graph);
  const EntropyUnit nats(true, model.classes.size());
  Table table({{"EXIT"},
               {"LOGITS"},
               {"CRITERION"},
               {"THRESHOLD", kRight},
               {"IN NATS", kRight},
               {"TEMPERATURE", kRight}});
  for (const Exit& exit : model.graph.exits) {
    const bool last = &exit == &model.graph.exits.back();
    const auto threshold = static_cast<double>(exit.rule.threshold);
    const bool entropy = exit.rule.criterion == Criterion::kEntropy;
    table.add({exit.name, origin(model.graph, makers, exit.logits),
               last ? "" : criterion_name(exit.rule.criterion),
               last ? "always" : format_short(threshold),
               last || !entropy ? "" : format_short(nats.shown(threshold)),
               format_short(static_cast<double>(exit.rule.temperature))});
  }
  return table.text();
}

/// "0.12, 0.3": one for each exit but the last.
std::string thresholds_text(const Target& target) {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i + 1 < target.rules.size(); ++i)
    texts.push_back(format_short(static_cast<double>(target.rules[i].threshold)));
  return join(texts, ", ");
}

/// "entropy", or all of them where they differ.
std::string criteria_text(const Target& target) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i + 1 < target.rules.size(); ++i)
    names.emplace_back(criterion_name(target.rules[i].criterion));
  if (std::ranges::adjacent_find(names, std::ranges::not_equal_to{}) == names.end())
    names.resize(std::min<std::size_t>(names.size(), 1));
  return join(names, ", ");
}

std::string targets_text(const Model& model) {
  std::vector<Table::Column> columns = {{"TARGET"},
                                        {"POINTS LOST", kRight},
                                        {"CONFIDENCE", kRight},
                                        {"CRITERION"},
                                        {"THRESHOLDS", kRight},
                                        {"HELD OUT", kRight},
                                        {"LOST THERE", kRight}};
  for (const Exit& exit : model.graph.exits) columns.push_back({"AT " + exit.name, kRight});
  columns.push_back({"COST", kRight});
  Table table(columns);
  for (const Target& target : model.targets) {
    std::vector<std::string> cells = {
        target.name,
        format_short(static_cast<double>(target.points)),
        format_percent(static_cast<double>(target.confidence)),
        criteria_text(target),
        thresholds_text(target),
        format_grouped(static_cast<std::uint64_t>(target.held_out.pictures)),
        format_short(static_cast<double>(target.held_out.loss))};
    for (const float share : target.held_out.shares)
      cells.push_back(format_percent(static_cast<double>(share)));
    cells.push_back(format_percent(static_cast<double>(target.held_out.cost)));
    table.add(cells);
  }
  return table.text();
}

std::string segments_text(const Model& model, const std::vector<Stage>& stages) {
  const Graph& graph = model.graph;
  const std::vector<int> makers = producers(graph);
  const std::vector<Segment> parts = split_at_exits(graph);
  Table table({{"TIER"},
               {"EXIT"},
               {"LAYERS", kRight},
               {"MACS", kRight},
               {"ARENA BYTES", kRight},
               {"HANDS ON"},
               {"BYTES", kRight}});
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool last = parts[i].carry == kNoValue;
    const std::uint64_t arena = stages.at(i).plan().arena_floats() * sizeof(float);
    table.add({tier_of(i), graph.exits.at(static_cast<std::size_t>(parts[i].exit)).name,
               std::to_string(parts[i].layers.size()),
               format_macs(static_cast<double>(parts[i].macs)), format_grouped(arena),
               last ? "" : origin(graph, makers, parts[i].carry),
               last ? "" : format_grouped(float_bytes(shape_of(graph, parts[i].carry)))});
  }
  return table.text();
}

std::string cuts_text(const Model& model) {
  const std::vector<int> makers = producers(model.graph);
  const auto raw = static_cast<double>(picture_bytes(model));
  Table table({{"AFTER"},
               {"SHAPE"},
               {"F32 BYTES", kRight},
               {"PICTURES", kRight},
               {"F16", kRight},
               {"U8", kRight},
               {"U8C", kRight}});
  for (ValueId cut : legal_cuts(model.graph)) {
    const Shape& shape = shape_of(model.graph, cut);
    const std::uint64_t bytes = float_bytes(shape);
    table.add({origin(model.graph, makers, cut), to_string(shape), format_grouped(bytes),
               format_fixed(static_cast<double>(bytes) / raw, 2) + " x",
               format_grouped(bytes_as(DType::kF16, shape)),
               format_grouped(bytes_as(DType::kU8, shape)),
               format_grouped(bytes_as(DType::kU8PerChannel, shape))});
  }
  return table.text();
}

Json plan_json(const Plan& plan) {
  Json steps = Json::array();
  for (const StepInfo& step : plan.steps()) {
    steps.push_back({{"layer", step.layer},
                     {"op", step.op},
                     {"algorithm", step.algorithm},
                     {"in", to_string(step.in)},
                     {"out", to_string(step.out)},
                     {"weight_bytes", step.weight_bytes}});
  }
  return steps;
}

std::string plan_text(const Plan& plan) {
  Table table({{"LAYER"}, {"OP"}, {"ALGORITHM"}, {"IN"}, {"OUT"}, {"WEIGHT BYTES", kRight}});
  for (const StepInfo& step : plan.steps()) {
    table.add({step.layer, step.op, step.algorithm, to_string(step.in), to_string(step.out),
               format_grouped(step.weight_bytes)});
  }
  return table.text();
}

class Inspect : public Command {
 public:
  explicit Inspect(CLI::App& root)
      : Command(root.add_subcommand("inspect",
                                    "Show a model's layers, exits, segments and legal cuts")) {
    app()
        ->add_option("MODEL", model_.text,
                     "model file [OFFRAMP_MODEL, else weights/resnet20b.safetensors]")
        ->option_text(" ");
    app()->add_flag("--plan", plan_, "also the compiled steps of each segment");
    app()->add_flag("--json", json_, "one JSON object");
    app()->footer(
        "Examples:\n"
        "  offramp inspect weights/resnet20b.safetensors\n"
        "  offramp inspect --plan\n"
        "  offramp inspect --json | jq .cuts");
  }

  int run() override {
    const Model model = load_model(model_.path());
    const std::vector<Stage> stages = make_stages(model, {}, plan_options_from_environment());
    if (json_) {
      Json value = to_json(model, stages);
      for (std::size_t i = 0; plan_ && i < stages.size(); ++i) {
        value["segments"][i]["plan"] = plan_json(stages[i].plan());
      }
      print_json(value, 2);
      return 0;
    }
    print(summary(model) + heading("Layers") + layers_text(model.graph) + heading("Exits") +
          exits_text(model) +
          (model.targets.empty()
               ? ""
               : heading("Targets: points of accuracy below the last exit, at most (--target)") +
                     targets_text(model)) +
          heading("Segments") + segments_text(model, stages) +
          heading("Legal cuts, and what would cross (a raw picture is " +
                  format_grouped(picture_bytes(model)) + " bytes)") +
          cuts_text(model));
    for (std::size_t i = 0; plan_ && i < stages.size(); ++i) {
      print(heading(std::string("Plan of the ") + tier_of(i)) + plan_text(stages[i].plan()));
    }
    return 0;
  }

 private:
  ModelOption model_;
  bool plan_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect(CLI::App& root) { return std::make_unique<Inspect>(root); }

}  // namespace offramp::cli
