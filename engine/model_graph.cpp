#include "engine/model_graph.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/error.h"
#include "engine/json_reader.h"

namespace offramp {
namespace {

using nlohmann::json;

// Bounds of attributes. With them, and with values of at most kMaxValueElements, no size computed
// from a graph leaves the range of int.
constexpr int kMaxWindow = 4096;
constexpr int kMaxChannels = 1 << 20;
constexpr std::int64_t kMaxTaps = 1 << 16;             // of a kernel
constexpr std::int64_t kMaxSummands = 1 << 24;         // of one output of a convolution
constexpr std::int64_t kMaxWeights = (1LL << 31) - 1;  // of a layer
constexpr int kMaxPaddedChannels = 1 << 15;

class GraphReader {
 public:
  GraphReader(const Shape& input, const std::map<std::string, Tensor>& tensors,
              const std::string& origin)
      : tensors_(tensors), origin_(origin) {
    graph_.values.push_back(input);
    values_["input"] = 0;
  }

  Graph read(const json& layers, const json& exits) {
    const std::string where = origin_ + ": offramp.graph";
    if (!layers.is_array()) throw bad_model(where, "a list of layers", describe(layers));
    if (layers.empty() || layers.size() > kMaxLayers) {
      throw bad_model(where, "1 to " + std::to_string(kMaxLayers) + " layers",
                      std::to_string(layers.size()));
    }
    for (const json& layer : layers) read_layer(layer);
    for (const auto& [name, tensor] : tensors_) {
      if (!used_.contains(name)) {
        throw bad_model(origin_ + ": tensor '" + printable(name) + "'", "a layer that uses it",
                        "none");
      }
    }
    read_exits(exits);
    return std::move(graph_);
  }

 private:
  void read_layer(const json& entry);
  void read_exits(const json& exits);

  Op read_op(const std::string& op, JsonFields& fields, const std::vector<Shape>& inputs);
  Op read_conv2d(JsonFields& fields, const Shape& input);
  Op read_linear(JsonFields& fields, const Shape& input);
  Op read_batch_norm(JsonFields& fields, const Shape& input);
  template <typename Pool>
  Pool read_pool(JsonFields& fields);

  const Tensor& tensor(const std::string& name, const std::string& where);
  std::span<const float> weight(const std::string& name, const std::vector<std::int64_t>& shape,
                                const std::string& where);
  // The same, and empty for an empty name.
  std::span<const float> optional_weight(const std::string& name, std::int64_t size,
                                         const std::string& where);

  const std::map<std::string, Tensor>& tensors_;
  const std::string& origin_;
  Graph graph_;
  std::map<std::string, ValueId, std::less<>> values_;
  std::set<std::string, std::less<>> used_;
};

const Tensor& GraphReader::tensor(const std::string& name, const std::string& where) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw bad_model(where, "tensor '" + printable(name) + "' in the file", "none");
  }
  used_.insert(name);
  return found->second;
}

std::span<const float> GraphReader::weight(const std::string& name,
                                           const std::vector<std::int64_t>& shape,
                                           const std::string& where) {
  const Tensor& found = tensor(name, where);
  if (found.shape != shape) {
    throw bad_model(where + ": tensor '" + printable(name) + "'", to_string(shape),
                    to_string(found.shape));
  }
  return found.data;
}

std::span<const float> GraphReader::optional_weight(const std::string& name, std::int64_t size,
                                                    const std::string& where) {
  return name.empty() ? std::span<const float>() : weight(name, {size}, where);
}

// First dimension of a weight, checked to be a number of channels.
int outputs_of(const Tensor& tensor, std::size_t rank, const std::string& where) {
  if (tensor.shape.size() != rank) {
    throw bad_model(where, "a weight of " + std::to_string(rank) + " dimensions",
                    to_string(tensor.shape));
  }
  if (tensor.shape[0] > kMaxChannels) {
    throw bad_model(where, "at most " + std::to_string(kMaxChannels) + " outputs",
                    std::to_string(tensor.shape[0]));
  }
  return static_cast<int>(tensor.shape[0]);
}

Op GraphReader::read_conv2d(JsonFields& fields, const Shape& input) {
  Conv2d conv;
  conv.kernel = fields.pair("kernel", 1, kMaxWindow);
  conv.stride = fields.pair("stride", 1, kMaxWindow);
  conv.padding = fields.pair("padding", 0, kMaxWindow);
  conv.dilation = fields.pair("dilation", 1, kMaxWindow);
  conv.groups = fields.integer("groups", 1, kMaxChannels);
  const std::string name = fields.text("weight");
  conv.in_channels = input.channels;
  conv.out_channels = outputs_of(tensor(name, fields.where()), 4, fields.where());
  if (conv.in_channels % conv.groups != 0 || conv.out_channels % conv.groups != 0) {
    throw bad_model(fields.where(), "groups that divide the channels",
                    std::to_string(conv.groups) + " groups for " +
                        std::to_string(conv.in_channels) + " to " +
                        std::to_string(conv.out_channels) + " channels");
  }
  const std::int64_t taps = std::int64_t{conv.kernel[0]} * conv.kernel[1];
  const std::int64_t summands = std::int64_t{conv.in_channels / conv.groups} * taps;
  if (taps > kMaxTaps || summands > kMaxSummands || summands * conv.out_channels > kMaxWeights) {
    throw bad_model(fields.where(),
                    "at most " + std::to_string(kMaxTaps) + " taps, " +
                        std::to_string(kMaxSummands) + " summands and " +
                        std::to_string(kMaxWeights) + " weights",
                    std::to_string(taps) + ", " + std::to_string(summands) + " and " +
                        std::to_string(summands * conv.out_channels));
  }
  conv.weight = weight(
      name, {conv.out_channels, conv.in_channels / conv.groups, conv.kernel[0], conv.kernel[1]},
      fields.where());
  conv.bias = optional_weight(fields.text_or_null("bias"), conv.out_channels, fields.where());
  return conv;
}

Op GraphReader::read_linear(JsonFields& fields, const Shape& input) {
  Linear linear;
  const std::string name = fields.text("weight");
  if (input.height != 1 || input.width != 1) {
    throw bad_model(fields.where(), "a vector as its input", to_string(input));
  }
  linear.in_features = input.channels;
  linear.out_features = outputs_of(tensor(name, fields.where()), 2, fields.where());
  if (std::int64_t{linear.in_features} * linear.out_features > kMaxWeights) {
    throw bad_model(fields.where(), "at most " + std::to_string(kMaxWeights) + " weights",
                    std::to_string(std::int64_t{linear.in_features} * linear.out_features));
  }
  linear.weight = weight(name, {linear.out_features, linear.in_features}, fields.where());
  linear.bias = optional_weight(fields.text_or_null("bias"), linear.out_features, fields.where());
  return linear;
}

Op GraphReader::read_batch_norm(JsonFields& fields, const Shape& input) {
  const std::string& where = fields.where();
  BatchNorm norm;
  norm.epsilon = fields.number("epsilon");
  if (norm.epsilon < 0) throw bad_model(where, "epsilon >= 0", std::to_string(norm.epsilon));
  norm.weight = optional_weight(fields.text_or_null("weight"), input.channels, where);
  norm.bias = optional_weight(fields.text_or_null("bias"), input.channels, where);
  norm.mean = weight(fields.text("mean"), {input.channels}, where);
  norm.variance = weight(fields.text("variance"), {input.channels}, where);
  for (const float variance : norm.variance) {
    if (variance + norm.epsilon <= 0) {
      throw bad_model(where, "variance + epsilon > 0", std::to_string(variance));
    }
  }
  return norm;
}

template <typename Pool>
Pool GraphReader::read_pool(JsonFields& fields) {
  Pool pool;
  pool.kernel = fields.pair("kernel", 1, kMaxWindow);
  pool.stride = fields.pair("stride", 1, kMaxWindow);
  pool.padding = fields.pair("padding", 0, kMaxWindow);
  pool.ceil_mode = fields.boolean("ceil_mode");
  for (std::size_t axis = 0; axis < 2; ++axis) {
    // As in PyTorch: a window that lies wholly in the padding has no maximum.
    if (pool.padding[axis] > pool.kernel[axis] / 2) {
      throw bad_model(fields.where() + ": padding",
                      "at most half of kernel " + std::to_string(pool.kernel[axis]),
                      std::to_string(pool.padding[axis]));
    }
  }
  return pool;
}

Op GraphReader::read_op(const std::string& op, JsonFields& fields,
                        const std::vector<Shape>& inputs) {
  const auto expect_inputs = [&](std::size_t least, std::size_t most) {
    if (inputs.size() < least || inputs.size() > most) {
      throw bad_model(fields.where(),
                      std::to_string(least) + (most > least ? " or more inputs" : " inputs"),
                      std::to_string(inputs.size()));
    }
  };
  if (op == "concat") {
    expect_inputs(2, SIZE_MAX);
    std::uint64_t channels = 0;
    for (const Shape& shape : inputs) channels += static_cast<std::uint64_t>(shape.channels);
    if (channels > kMaxValueElements) {
      throw bad_model(fields.where(), "at most " + std::to_string(kMaxValueElements) + " channels",
                      std::to_string(channels));
    }
    return Concat{};
  }
  if (op == "add") {
    expect_inputs(2, 2);
    return Add{};
  }
  expect_inputs(1, 1);
  if (op == "conv2d") return read_conv2d(fields, inputs[0]);
  if (op == "linear") return read_linear(fields, inputs[0]);
  if (op == "batch_norm") return read_batch_norm(fields, inputs[0]);
  if (op == "relu") return Relu{};
  if (op == "max_pool") return read_pool<MaxPool>(fields);
  if (op == "average_pool") {
    auto pool = read_pool<AveragePool>(fields);
    pool.count_include_pad = fields.boolean("count_include_pad");
    return pool;
  }
  if (op == "global_average_pool") return GlobalAveragePool{};
  if (op == "flatten") return Flatten{};
  if (op == "subsample") return Subsample{fields.pair("stride", 1, kMaxWindow)};
  if (op == "pad_channels") {
    return PadChannels{fields.integer("before", 0, kMaxPaddedChannels),
                       fields.integer("after", 0, kMaxPaddedChannels)};
  }
  throw bad_model(fields.where(), "a known op", "'" + printable(op) + "'");
}

void GraphReader::read_layer(const json& entry) {
  JsonFields unnamed(entry,
                     origin_ + ": offramp.graph, layer " + std::to_string(graph_.layers.size()));
  Layer layer;
  layer.name = unnamed.text("name");
  const std::string where = origin_ + ": layer '" + printable(layer.name) + "'";
  if (values_.contains(layer.name)) throw bad_model(where, "distinct names", "two of this name");

  JsonFields fields(entry, where);
  fields.skip("name");
  std::vector<Shape> inputs;
  for (const json& input : fields.list("inputs")) {
    const std::string name = json_text(input, where + ": inputs");
    const auto found = values_.find(name);
    if (found == values_.end()) {
      throw bad_model(where, "an earlier layer as input", "'" + printable(name) + "'");
    }
    layer.inputs.push_back(found->second);
    inputs.push_back(graph_.values[static_cast<std::size_t>(found->second)]);
  }
  layer.op = read_op(fields.text("op"), fields, inputs);
  fields.finish();

  Shape output;
  try {
    output = output_shape(layer.op, inputs);
  } catch (const Error& error) {
    throw Error(error.kind(), where + ": " + error.what());
  }
  if (output.elements() > kMaxValueElements) {
    throw bad_model(where,
                    "an output of at most " + std::to_string(kMaxValueElements) + " elements",
                    to_string(output));
  }
  layer.output = static_cast<ValueId>(graph_.values.size());
  values_[layer.name] = layer.output;
  graph_.values.push_back(output);
  graph_.layers.push_back(std::move(layer));
}

void GraphReader::read_exits(const json& exits) {
  const std::string list = origin_ + ": offramp.exits";
  if (!exits.is_array() || exits.empty()) throw bad_model(list, "a list of exits", describe(exits));
  std::set<std::string> names;
  for (std::size_t i = 0; i < exits.size(); ++i) {
    JsonFields fields(exits[i], list + ", exit " + std::to_string(i));
    Exit exit;
    exit.name = fields.text("name");
    const std::string logits = fields.text("logits");
    const auto found = values_.find(logits);
    if (found == values_.end() || found->second == 0) {
      throw bad_model(fields.where() + ": logits", "the name of a layer",
                      "'" + printable(logits) + "'");
    }
    exit.logits = found->second;
    if (i + 1 < exits.size()) {
      exit.rule.threshold = fields.number("threshold", 0, 1);
    } else {
      fields.skip("threshold");  // the last exit always answers
    }
    fields.finish();
    if (!names.insert(exit.name).second) {
      throw bad_model(list, "distinct names", "'" + printable(exit.name) + "' twice");
    }
    graph_.exits.push_back(std::move(exit));
  }
}

}  // namespace

Graph read_graph(const json& layers, const json& exits, const Shape& input,
                 const std::map<std::string, Tensor>& tensors, const std::string& origin) {
  return GraphReader(input, tensors, origin).read(layers, exits);
}

}  // namespace offramp
