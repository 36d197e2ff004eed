// Shapes and checks of the graph, the passes, and cutting it into segments.
#include "engine/graph.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "engine/error.h"
#include "engine/interpreter.h"
#include "engine/partition.h"
#include "engine/passes.h"
#include "tests/test_graphs.h"

using namespace offramp;
using test::GraphBuilder;

namespace {

Shape shape_of(const Op& op, std::vector<Shape> inputs) { return output_shape(op, inputs); }

Conv2d conv(int in, int out, int kernel, int stride, int pad) {
  Conv2d op;
  op.in_channels = in;
  op.out_channels = out;
  op.kernel = {kernel, kernel};
  op.stride = {stride, stride};
  op.padding = {pad, pad};
  return op;
}

// stem -> block -> [exit 1] -> block -> [exit 2], like the networks this is for.
GraphBuilder two_exits() {
  GraphBuilder b({3, 8, 8}, 1);
  ValueId x = b.relu(b.batch_norm(b.conv(0, 4, 3, 1, 1, 1, false)));
  ValueId y = b.batch_norm(b.conv(x, 4, 3, 1, 1, 1, false));
  x = b.relu(b.add(y, x));
  b.exit(b.linear(b.append(GlobalAveragePool{}, {b.relu(b.conv(x, 6, 3, 2, 1))}), 5));
  y = b.batch_norm(b.conv(x, 8, 3, 2, 1, 1, false));
  x = b.relu(b.add(y, b.batch_norm(b.conv(x, 8, 1, 2, 0, 1, false))));
  b.exit(b.linear(b.append(GlobalAveragePool{}, {x}), 5));
  return b;
}

}  // namespace

TEST_CASE("output_shape follows PyTorch") {
  CHECK(shape_of(conv(3, 16, 3, 1, 1), {{3, 32, 32}}) == Shape{16, 32, 32});
  CHECK(shape_of(conv(3, 64, 7, 2, 3), {{3, 224, 224}}) == Shape{64, 112, 112});
  CHECK(shape_of(conv(3, 64, 11, 4, 2), {{3, 224, 224}}) == Shape{64, 55, 55});
  CHECK(shape_of(MaxPool{{3, 3}, {2, 2}, {1, 1}, false}, {{64, 112, 112}}) == Shape{64, 56, 56});
  CHECK(shape_of(MaxPool{{2, 2}, {2, 2}, {0, 0}, true}, {{1, 7, 7}}) == Shape{1, 4, 4});
  CHECK(shape_of(MaxPool{{2, 2}, {2, 2}, {0, 0}, false}, {{1, 7, 7}}) == Shape{1, 3, 3});
  // ceil_mode would start a window in the right padding; PyTorch leaves it out.
  CHECK(shape_of(MaxPool{{2, 2}, {2, 2}, {1, 1}, true}, {{1, 3, 3}}) == Shape{1, 2, 2});
  CHECK(shape_of(Subsample{{2, 2}}, {{5, 7, 8}}) == Shape{5, 4, 4});
  CHECK(shape_of(PadChannels{2, 3}, {{5, 7, 8}}) == Shape{10, 7, 8});
  CHECK(shape_of(Flatten{}, {{5, 7, 8}}) == Shape{280, 1, 1});
  CHECK(shape_of(Concat{}, {{5, 7, 8}, {1, 7, 8}, {2, 7, 8}}) == Shape{8, 7, 8});
}

TEST_CASE("output_shape refuses what does not fit") {
  CHECK_THROWS_AS(shape_of(conv(3, 16, 3, 1, 1), {{4, 32, 32}}), Error);
  CHECK_THROWS_AS(shape_of(conv(3, 16, 3, 0, 1), {{3, 32, 32}}), Error);
  CHECK_THROWS_AS(shape_of(conv(3, 16, 9, 1, 0), {{3, 8, 8}}), Error);
  CHECK_THROWS_AS(shape_of(conv(3, 16, 1 << 20, 1, 0), {{3, 8, 8}}), Error);
  CHECK_THROWS_AS(shape_of(Add{}, {{3, 8, 8}, {3, 8, 7}}), Error);
  CHECK_THROWS_AS(shape_of(Add{}, {{3, 8, 8}}), Error);
  CHECK_THROWS_AS(shape_of(Relu{}, {{3, 8, 8}, {3, 8, 8}}), Error);
  CHECK_THROWS_AS(shape_of(Concat{}, {{3, 8, 8}, {3, 7, 8}}), Error);
  CHECK_THROWS_AS(shape_of(MaxPool{{2, 2}, {2, 2}, {2, 2}, false}, {{1, 8, 8}}), Error);
  Conv2d grouped = conv(6, 8, 3, 1, 1);
  grouped.groups = 4;
  CHECK_THROWS_AS(shape_of(grouped, {{6, 8, 8}}), Error);
}

TEST_CASE("validate names the layer and what is wrong with it") {
  GraphBuilder b = two_exits();
  CHECK_NOTHROW(validate(b.graph()));
  Graph broken = b.graph();
  broken.layers[1].name = broken.layers[0].name;
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("distinct layer names"), Error);
  broken = b.graph();
  broken.layers[0].inputs[0] = 5;
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("earlier layers"), Error);
  broken = b.graph();
  broken.values[1].height = 9;
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("layer conv2d0"), Error);
  broken = b.graph();
  const std::vector<float> nan(3 * 4 * 9, NAN);
  std::get<Conv2d>(broken.layers[0].op).weight = nan;
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("found NaN"), Error);
  broken = b.graph();
  broken.exits[0].rule.threshold = NAN;
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("threshold"), Error);
  broken = b.graph();
  broken.exits.clear();
  CHECK_THROWS_WITH_AS(validate(broken), doctest::Contains("at least one exit"), Error);
}

TEST_CASE("macs and parameters of a convolution and a linear layer") {
  GraphBuilder b({16, 32, 32}, 1);
  b.conv(0, 32, 3, 2, 1);
  CHECK(macs(b.graph(), b.graph().layers[0]) == 32 * 16 * 16 * 16 * 9);
  CHECK(parameters(b.graph().layers[0]) == 32 * 16 * 9 + 32);
  b.linear(b.append(GlobalAveragePool{}, {1}), 10);
  CHECK(macs(b.graph(), b.graph().layers[2]) == 320);
}

TEST_CASE("fuse leaves one layer per convolution and the same answers") {
  GraphBuilder b = two_exits();
  const FusedGraph fused = fuse(b.graph());
  CHECK_NOTHROW(validate(fused.graph));
  // 3 + 3 convolutions, 2 pools, 2 linear layers; no batch norm, ReLU or sum is left.
  CHECK(fused.graph.layers.size() == 9);
  std::mt19937 random(4);
  const auto x = test::random_floats(random, 3 * 8 * 8);
  const Values plain = interpret(b.graph(), x), after = interpret(fused.graph, x);
  for (const Exit& exit : b.graph().exits) {
    const std::size_t id = static_cast<std::size_t>(exit.logits);
    for (std::size_t i = 0; i < plain[id].size(); ++i) {
      CHECK(after[id][i] == doctest::Approx(plain[id][i]).epsilon(1e-5));
    }
  }
}

TEST_CASE("fuse keeps a value that two layers read") {
  GraphBuilder b({2, 4, 4}, 1);
  const ValueId c = b.conv(0, 2, 1);
  const ValueId both = b.add(b.batch_norm(c), b.relu(c));
  b.exit(b.linear(b.append(Flatten{}, {both}), 3));
  const FusedGraph fused = fuse(b.graph());
  CHECK(fused.graph.layers.size() == b.graph().layers.size());
}

TEST_CASE("fuse refuses a batch norm that makes weights infinite") {
  GraphBuilder b({2, 4, 4}, 1);
  b.exit(b.linear(b.append(Flatten{}, {b.batch_norm(b.conv(0, 2, 1))}), 3));
  Graph graph = b.graph();
  const std::vector<float> huge{1e30f, 1e30f}, tiny{1e-38f, 1e-38f};
  BatchNorm& norm = std::get<BatchNorm>(graph.layers[1].op);
  norm.weight = huge;
  norm.variance = tiny;
  norm.epsilon = 0.0f;
  CHECK_THROWS_WITH_AS(fuse(graph), doctest::Contains("layer conv2d0: wanted finite"), Error);
}

TEST_CASE("fuse drops what no exit needs") {
  GraphBuilder b({2, 4, 4}, 1);
  b.conv(0, 7, 3);
  b.exit(b.linear(b.append(Flatten{}, {0}), 3));
  CHECK(fuse(b.graph()).graph.layers.size() == 2);
}

TEST_CASE("legal cuts are where one tensor crosses") {
  GraphBuilder b = two_exits();
  std::vector<std::string> names;
  const std::vector<int> producer = producers(b.graph());
  for (ValueId cut : legal_cuts(b.graph())) {
    const int layer = producer[static_cast<std::size_t>(cut)];
    names.push_back(layer < 0 ? "input" : b.graph().layers[static_cast<std::size_t>(layer)].name);
  }
  // Not inside the residual blocks, and not in the first exit's branch.
  CHECK(names == std::vector<std::string>{"input", "conv2d0", "batch_norm1", "relu2", "add5",
                                          "relu6", "add15", "relu16", "global_average_pool17",
                                          "linear18"});
}

TEST_CASE("split_at_exits: every layer in one segment, every segment closed") {
  GraphBuilder b = two_exits();
  const std::vector<Segment> segments = split_at_exits(b.graph());
  REQUIRE(segments.size() == 2);
  CHECK(segments[0].input == 0);
  CHECK(b.shape(segments[0].carry) == Shape{4, 8, 8});
  CHECK(segments[1].input == segments[0].carry);
  CHECK(segments[1].carry == kNoValue);
  CHECK(segments[0].layers.size() + segments[1].layers.size() == b.graph().layers.size());
  std::uint64_t total = 0;
  for (const Layer& layer : b.graph().layers) total += macs(b.graph(), layer);
  CHECK(segments[0].macs + segments[1].macs == total);
}

TEST_CASE("split_at_exits moves the cut behind an exit that sits inside a residual block") {
  GraphBuilder b({2, 4, 4}, 1);
  const ValueId x = b.conv(0, 2, 1);
  const ValueId inside = b.conv(x, 2, 3, 1, 1);
  b.exit(b.linear(b.append(Flatten{}, {inside}), 3));
  const ValueId joined = b.add(inside, x);
  b.exit(b.linear(b.append(Flatten{}, {joined}), 3));
  CHECK(split_at_exits(b.graph())[0].carry == joined);
}

TEST_CASE("split_at_exits refuses an exit whose logits the tier before has made") {
  GraphBuilder b({2, 4, 4}, 1);
  const ValueId logits = b.linear(b.append(Flatten{}, {b.conv(0, 2, 1)}), 3);
  const ValueId on = b.linear(b.relu(b.linear(b.append(Flatten{}, {0}), 8)), 3);
  SUBCASE("the same logits twice") {
    b.exit(logits);
    b.exit(logits);
    b.exit(on);
  }
  SUBCASE("logits on the way to an earlier exit's") {
    b.exit(b.linear(logits, 3));
    b.exit(logits);
    b.exit(on);
  }
  CHECK_THROWS_WITH_AS(split_at_exits(b.graph()), doctest::Contains("wanted"), Error);
}

TEST_CASE("split_at_exits refuses exits that one tensor cannot separate") {
  GraphBuilder b({2, 4, 4}, 1);
  const ValueId early = b.conv(0, 2, 1);
  const ValueId middle = b.conv(early, 2, 1);
  b.exit(b.linear(b.append(Flatten{}, {middle}), 3));
  const ValueId late = b.conv(middle, 2, 1);
  b.exit(b.linear(b.append(Flatten{}, {b.append(Concat{}, {early, late})}), 3));
  b.exit(b.linear(b.append(Flatten{}, {b.conv(late, 2, 1)}), 3));
  // The second exit reads `early` across the cut at `middle`.
  CHECK_THROWS_WITH_AS(split_at_exits(b.graph()), doctest::Contains("reads a second one"), Error);
}
