// The models of weights/ against what PyTorch computed for the sample pictures, layer by layer.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "engine/file.h"
#include "engine/interpreter.h"
#include "engine/model.h"
#include "engine/passes.h"
#include "engine/plan.h"
#include "engine/safetensors.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"

using namespace offramp;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

const std::filesystem::path kWeights = std::filesystem::path(OFFRAMP_SOURCE_DIR) / "weights";

struct Golden {
  std::string stem;
  Model model = load_model(kWeights / (stem + ".safetensors"));
  std::vector<std::uint8_t> file = read_file(kWeights / (stem + ".golden.safetensors"));
  Safetensors contents = parse_safetensors(file, "golden");

  std::span<const float> tensor(const std::string& name) const {
    return contents.tensors.at(name).data;
  }
  int pictures() const { return static_cast<int>(contents.tensors.at("input").shape[0]); }
  std::span<const float> picture(int n) const {
    const std::size_t size = model.graph.values[0].elements();
    return tensor("input").subspan(at(n) * size, size);
  }
};

void with_every_model(const std::function<void(const Golden&)>& check) {
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kWeights)) {
    const std::filesystem::path file = entry.path().filename();
    if (file.extension() != ".safetensors" || file.stem().extension() == ".golden") continue;
    CAPTURE(file.string());
    check(Golden{file.stem().string()});
    ++models;
  }
  CHECK(models >= 1);
}

// Largest difference as a share of the largest value wanted.
double difference(std::span<const float> found, std::span<const float> wanted) {
  REQUIRE(found.size() == wanted.size());
  double most = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(found[i]) - wanted[i]));
    largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
  }
  return most / largest;
}

std::vector<float> channels_last(const Shape& s, std::span<const float> x) {
  std::vector<float> y(x.size());
  to_channels_last(s.channels, s.height, s.width, x.data(), y.data());
  return y;
}

}  // namespace

TEST_CASE("golden files belong to their models and cover their layers") {
  with_every_model([](const Golden& golden) {
    CHECK(golden.contents.metadata.at("offramp.hash").starts_with(short_id(golden.model.id)));
    CHECK(golden.pictures() >= 12);
    CHECK(golden.contents.tensors.size() > 20);
  });
}

TEST_CASE("the interpreter computes PyTorch's activations in every layer") {
  with_every_model([](const Golden& golden) {
    const FusedGraph fused = fuse(golden.model.graph);
    for (const Graph* graph : {&golden.model.graph, &fused.graph}) {
      const Values values = interpret(*graph, golden.picture(0));
      for (const Layer& layer : golden.model.graph.layers) {
        const auto found = golden.contents.tensors.find("layer:" + layer.name);
        if (found == golden.contents.tensors.end()) continue;
        CAPTURE(layer.name);
        // Batch norm folded into the weights rounds those once more.
        CHECK(difference(values[at(layer.output)], found->second.data) < 1e-5);
      }
    }
  });
}

TEST_CASE("plans compute PyTorch's activations in every layer, with every table and algorithm") {
  with_every_model([](const Golden& golden) {
    const FusedGraph fused = fuse(golden.model.graph);
    const std::vector<float> input = channels_last(fused.graph.values[0], golden.picture(0));
    // The whole network in one segment that hands on the layer in question.
    Segment segment;
    segment.input = 0;
    segment.exit = static_cast<int>(fused.graph.exits.size()) - 1;
    segment.layers.resize(fused.graph.layers.size());
    std::iota(segment.layers.begin(), segment.layers.end(), 0);
    for (const KernelTable* table : available_kernels()) {
      for (ConvAlgorithm algorithm :
           {ConvAlgorithm::kDirect, ConvAlgorithm::kWinograd2, ConvAlgorithm::kWinograd4,
            ConvAlgorithm::kWinograd6, ConvAlgorithm::kIm2col}) {
        CAPTURE(std::string(table->name));
        CAPTURE(std::string(to_string(algorithm)));
        for (const Layer& layer : golden.model.graph.layers) {
          const auto found = golden.contents.tensors.find("layer:" + layer.name);
          if (found == golden.contents.tensors.end()) continue;
          CAPTURE(layer.name);
          segment.carry = layer.output;
          const Plan plan =
              Plan::compile(fused.graph, segment, {.kernels = table, .convolution = algorithm});
          Workspace workspace = plan.make_workspace();
          const View carry = plan.run({input.data(), 1, plan.input_shape()}, workspace).carry;
          const std::vector<float> wanted = channels_last(carry.shape, found->second.data);
          // F(6x6) rounds more (kernels/winograd_bodies.h).
          const double allowed = algorithm == ConvAlgorithm::kWinograd6 ? 1e-4 : 1e-5;
          CHECK(difference({carry.data, carry.elements()}, wanted) < allowed);
        }
      }
    }
  });
}

TEST_CASE("stages compute PyTorch's logits for all sample pictures, whatever the batch") {
  with_every_model([](const Golden& golden) {
    const int count = golden.pictures();
    const Shape& shape = golden.model.graph.values[0];
    std::vector<float> input;
    for (int n = 0; n < count; ++n) {
      const std::vector<float> picture = channels_last(shape, golden.picture(n));
      input.insert(input.end(), picture.begin(), picture.end());
    }
    for (const KernelTable* table : available_kernels()) {
      CAPTURE(std::string(table->name));
      const FusedGraph fused = fuse(golden.model.graph);
      std::vector<float> carry = input;
      for (const Segment& segment : split_at_exits(fused.graph)) {
        const Plan plan =
            Plan::compile(fused.graph, segment, {.kernels = table, .max_batch = count});
        Workspace workspace = plan.make_workspace();
        const Plan::Outputs out = plan.run({carry.data(), count, plan.input_shape()}, workspace);
        const std::string name = "logits:" + fused.graph.exits[at(segment.exit)].name;
        CAPTURE(name);
        CHECK(difference({out.logits.data, out.logits.elements()}, golden.tensor(name)) < 1e-5);
        const std::vector<float> next(out.carry.data, out.carry.data + out.carry.elements());
        carry = next;
      }
    }
  });
}
