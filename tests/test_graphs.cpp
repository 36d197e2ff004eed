#include "tests/test_graphs.h"

#include <cmath>

namespace offramp::test {

std::vector<float> random_floats(std::mt19937& random, std::size_t count, float low, float high) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(count);
  for (float& v : values) v = uniform(random);
  return values;
}

GraphBuilder::GraphBuilder(Shape input, std::uint32_t seed) : random_(seed) {
  graph_.values.push_back(input);
}

std::span<const float> GraphBuilder::weights(std::size_t count, float low, float high) {
  storage_.push_back(
      std::make_unique<std::vector<float>>(random_floats(random_, count, low, high)));
  return *storage_.back();
}

ValueId GraphBuilder::append(const Op& op, std::vector<ValueId> inputs) {
  std::vector<Shape> shapes;
  for (ValueId id : inputs) shapes.push_back(shape(id));
  Layer layer;
  layer.name = op_name(op) + std::to_string(graph_.layers.size());
  graph_.values.push_back(output_shape(op, shapes));
  layer.op = op;
  layer.inputs = std::move(inputs);
  layer.output = static_cast<ValueId>(graph_.values.size()) - 1;
  graph_.layers.push_back(std::move(layer));
  return graph_.layers.back().output;
}

ValueId GraphBuilder::conv(ValueId x, int out, int kernel, int stride, int padding, int groups,
                           bool bias, int dilation) {
  Conv2d op;
  op.in_channels = shape(x).channels;
  op.out_channels = out;
  op.kernel = {kernel, kernel};
  op.stride = {stride, stride};
  op.padding = {padding, padding};
  op.dilation = {dilation, dilation};
  op.groups = groups;
  const int fan_in = op.in_channels / groups * kernel * kernel;
  // Keeps the variance of the activations about 1 through any depth.
  const float range = std::sqrt(3.0f / static_cast<float>(fan_in));
  op.weight = weights(static_cast<std::size_t>(out * fan_in), -range, range);
  if (bias) op.bias = weights(static_cast<std::size_t>(out), -0.5f, 0.5f);
  return append(op, {x});
}

ValueId GraphBuilder::linear(ValueId x, int out) {
  Linear op;
  op.in_features = shape(x).channels;
  op.out_features = out;
  const float range = std::sqrt(3.0f / static_cast<float>(op.in_features));
  op.weight = weights(static_cast<std::size_t>(op.in_features * out), -range, range);
  op.bias = weights(static_cast<std::size_t>(out), -0.5f, 0.5f);
  return append(op, {x});
}

ValueId GraphBuilder::batch_norm(ValueId x) {
  const std::size_t channels = static_cast<std::size_t>(shape(x).channels);
  BatchNorm op;
  op.weight = weights(channels, 0.5f, 1.5f);
  op.bias = weights(channels, -0.5f, 0.5f);
  op.mean = weights(channels, -0.5f, 0.5f);
  op.variance = weights(channels, 0.5f, 2.0f);
  return append(op, {x});
}

void GraphBuilder::exit(ValueId logits, float threshold) {
  graph_.exits.push_back({"exit" + std::to_string(graph_.exits.size() + 1), logits, {threshold}});
}

namespace {

ValueId random_block(GraphBuilder& b, ValueId x) {
  const auto pick = [&](int n) {
    return static_cast<int>(b.random()() % static_cast<unsigned>(n));
  };
  const Shape in = b.shape(x);
  switch (pick(8)) {
    case 0: {  // residual block
      ValueId y = b.relu(b.batch_norm(b.conv(x, in.channels, 3, 1, 1, 1, false)));
      y = b.batch_norm(b.conv(y, in.channels, 3, 1, 1));
      return b.relu(pick(2) ? b.add(y, x) : b.add(x, y));
    }
    case 1: {  // residual block with a projection
      const int out = 1 + pick(20);
      ValueId y = b.batch_norm(b.conv(x, out, 3, 2, 1));
      return b.relu(b.add(y, b.batch_norm(b.conv(x, out, 1, 2))));
    }
    case 2: {  // zero-padded shortcut
      const ValueId s = b.append(PadChannels{pick(3), pick(3)}, {b.append(Subsample{{2, 2}}, {x})});
      return b.add(s, b.conv(x, b.shape(s).channels, 3, 2, 1));
    }
    case 3:  // two branches joined
      return b.append(Concat{}, {b.relu(b.conv(x, 1 + pick(9), 1)), x, b.conv(x, 5, 5, 1, 2)});
    case 4:  // separable convolution
      return b.relu(b.conv(b.conv(x, in.channels, 3, 1, 1, in.channels), 1 + pick(24), 1));
    case 5:
      return b.append(MaxPool{{3, 3}, {2, 2}, {1, 1}, pick(2) == 1}, {x});
    case 6:
      return b.append(AveragePool{{3, 2}, {2, 1}, {1, 1}, pick(2) == 1, pick(2) == 1}, {x});
    default:  // not preceded by anything it could be folded into
      return b.relu(b.batch_norm(b.append(MaxPool{{1, 1}, {1, 1}, {0, 0}, false}, {x})));
  }
}

ValueId random_head(GraphBuilder& b, ValueId x, int classes) {
  if (b.random()() % 2) return b.linear(b.append(GlobalAveragePool{}, {x}), classes);
  return b.linear(b.relu(b.linear(b.append(Flatten{}, {x}), 17)), classes);
}

}  // namespace

void build_random_network(GraphBuilder& builder, int exits) {
  const int classes = 2 + static_cast<int>(builder.random()() % 12);
  ValueId x = 0;
  for (int e = 0; e < exits; ++e) {
    const int blocks = 1 + static_cast<int>(builder.random()() % 3);
    for (int i = 0; i < blocks; ++i) x = random_block(builder, x);
    builder.exit(random_head(builder, x, classes));
  }
}

Model make_model(const Graph& graph) {
  validate(graph);
  Model model;
  model.name = "test";
  model.graph = graph;
  model.preprocess.input = graph.values[0];
  const Shape& logits = graph.values[static_cast<std::size_t>(graph.exits[0].logits)];
  for (int i = 0; i < logits.channels; ++i) model.classes.push_back("c" + std::to_string(i));
  return model;
}

}  // namespace offramp::test
