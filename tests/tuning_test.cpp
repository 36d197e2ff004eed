#include "engine/tuning.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "engine/interpreter.h"
#include "engine/passes.h"
#include "engine/step.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"
#include "tests/test_graphs.h"
#include "tests/test_twins.h"

using namespace offramp;
using test::GraphBuilder;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// Two exits, and every kind of convolution.
void build_network(GraphBuilder& b) {
  ValueId x = b.relu(b.batch_norm(b.conv(0, 16, 3, 1, 1, 1, false)));
  x = b.relu(b.add(b.batch_norm(b.conv(x, 16, 3, 1, 1)), x));
  b.exit(b.linear(b.append(GlobalAveragePool{}, {x}), 5));
  x = b.relu(b.conv(x, 24, 3, 2, 1));
  x = b.relu(b.conv(b.conv(x, 24, 3, 1, 1, 24), 32, 1));
  x = b.append(Concat{}, {b.conv(x, 8, 3, 1, 1, 2), b.conv(x, 8, 3, 1, 2, 1, true, 2)});
  b.exit(b.linear(b.append(Flatten{}, {b.relu(b.conv(x, 12, 5, 1, 2))}), 5));
  validate(b.graph());
}

std::map<std::string, ConvShape> convolutions(const Graph& graph) {
  std::map<std::string, ConvShape> shapes;
  for (const Layer& layer : graph.layers) {
    if (const auto* conv = std::get_if<Conv2d>(&layer.op)) {
      shapes[layer.name] =
          conv_shape(*conv, graph.values[at(layer.inputs[0])], graph.values[at(layer.output)]);
    }
  }
  return shapes;
}

std::vector<Plan> compile(const Graph& graph, const PlanOptions& options) {
  const FusedGraph fused = fuse(graph);
  std::vector<Plan> plans;
  for (const Segment& segment : split_at_exits(fused.graph)) {
    plans.push_back(Plan::compile(fused.graph, segment, options));
  }
  return plans;
}

ConvPaths paths_of(const std::vector<Plan>& plans) {
  ConvPaths paths;
  for (const Plan& plan : plans) {
    for (const StepInfo& step : plan.steps()) {
      if (step.op != "conv2d") continue;
      CHECK(step.algorithm == to_string(step.path));
      CHECK(paths.emplace(step.layer, step.path).second);
    }
  }
  return paths;
}

// The tolerance of the algorithm among them that rounds worst.
float error_growth(const ConvPaths& paths) {
  float growth = 1.0f;
  for (const auto& [layer, path] : paths) {
    if (winograd_tile(path) == 0) continue;
    growth = std::max(growth, test::error_growth(parse_conv_algorithm(to_string(path))));
  }
  return growth;
}

void check_against_interpreter(GraphBuilder& b, const std::vector<Plan>& plans, float growth) {
  const int batch = plans[0].max_batch();
  std::vector<Values> wanted;
  std::vector<float> value;
  for (int n = 0; n < batch; ++n) {
    const auto x = test::random_floats(b.random(), b.shape(0).elements());
    wanted.push_back(interpret(b.graph(), x));
    const auto input = test::channels_last(b.shape(0), x);
    value.insert(value.end(), input.begin(), input.end());
  }
  ThreadPool pool(plans[0].threads());
  for (std::size_t i = 0; i < plans.size(); ++i) {
    Workspace workspace = plans[i].make_workspace();
    const Plan::Outputs out =
        plans[i].run({value.data(), batch, plans[i].input_shape()}, workspace, &pool);
    const ValueId logits = b.graph().exits[i].logits;
    for (int n = 0; n < batch; ++n) {
      const View found = out.logits.slice(n, 1);
      const auto bounds = test::error_bounds(b.graph(), wanted[at(n)], growth);
      test::check_close({found.data, found.elements()}, wanted[at(n)][at(logits)],
                        bounds[at(logits)]);
    }
    value.assign(out.carry.data, out.carry.data + out.carry.elements());
  }
}

}  // namespace

TEST_CASE("tune has an algorithm for every convolution, and plans use it") {
  GraphBuilder b({3, 24, 20}, 1);
  build_network(b);
  const Model model = test::make_model(b.graph());
  const auto shapes = convolutions(b.graph());
  REQUIRE(shapes.size() == 8);
  for (const int batch : {1, 3}) {
    for (const KernelTable* table : available_kernels()) {
      CAPTURE(batch);
      CAPTURE(std::string(table->name));
      PlanOptions options{.kernels = table, .max_batch = batch, .threads = batch == 1 ? 1 : 2};
      options.paths = tune(model, options);
      CHECK(options.paths.size() == shapes.size());
      for (const auto& it : options.paths) {
        CAPTURE(it.first);
        REQUIRE(shapes.contains(it.first));
        CHECK(can_compute(it.second, shapes.at(it.first)));
      }
      const std::vector<Plan> plans = compile(b.graph(), options);
      CHECK(paths_of(plans) == options.paths);
      CHECK(plans[0].kernels().name == table->name);
      check_against_interpreter(b, plans, error_growth(options.paths));
    }
  }
}

TEST_CASE("a plan takes each layer's own algorithm, and the general one where that cannot do it") {
  GraphBuilder b({3, 24, 20}, 2);
  build_network(b);
  const auto shapes = convolutions(b.graph());
  for (const ConvPath wish : {ConvPath::kDirect, ConvPath::kWinograd2, ConvPath::kWinograd4,
                              ConvPath::kWinograd6, ConvPath::kDepthwise, ConvPath::kIm2col}) {
    for (const ConvAlgorithm general : {ConvAlgorithm::kWinograd2, ConvAlgorithm::kIm2col}) {
      CAPTURE(std::string(to_string(wish)));
      CAPTURE(std::string(to_string(general)));
      PlanOptions options{.convolution = general, .max_batch = 2};
      options.paths["no layer of this name"] = wish;
      ConvPaths wanted;
      bool odd = false;
      for (const auto& [layer, shape] : shapes) {
        wanted[layer] = choose_conv_path(general, shape, 1, WeightsHome::kNear, best_kernels());
        odd = !odd;
        if (!odd) continue;
        options.paths[layer] = wish;
        if (can_compute(wish, shape)) wanted[layer] = wish;
      }
      const std::vector<Plan> plans = compile(b.graph(), options);
      CHECK(paths_of(plans) == wanted);
      check_against_interpreter(b, plans, error_growth(wanted));
    }
  }
}

TEST_CASE("tune does without convolutions") {
  GraphBuilder b({7, 1, 1}, 3);
  b.exit(b.linear(b.relu(b.linear(0, 20)), 3));
  CHECK(tune(test::make_model(b.graph()), {}).empty());
}
