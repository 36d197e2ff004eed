#include "engine/graph.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/error.h"
#include "engine/overloaded.h"

namespace offramp {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kBadModel, message); }

std::string pair_text(const Pair& p) { return std::to_string(p[0]) + "x" + std::to_string(p[1]); }

// Larger attributes than any network has; the products of two of them still fit an int.
constexpr int kMaxAttribute = 1 << 15;
constexpr std::size_t kMaxElements = std::size_t{1} << 30;

void check_pair(const char* what, const Pair& p, int least) {
  for (int v : p) {
    if (v < least || v > kMaxAttribute) {
      fail(std::string("wanted ") + what + " of at least " + std::to_string(least) + ", found " +
           pair_text(p));
    }
  }
}

// floor((in + 2*pad - dilation*(kernel - 1) - 1) / stride) + 1, as torch.nn.Conv2d.
int convolved(int in, int kernel, int stride, int pad, int dilation) {
  const int span = dilation * (kernel - 1) + 1;
  if (in + 2 * pad < span) {
    fail("wanted a kernel no larger than the padded input, found " + std::to_string(span) +
         " against " + std::to_string(in + 2 * pad));
  }
  return (in + 2 * pad - span) / stride + 1;
}

// As torch.nn.MaxPool2d: with ceil_mode a last window may reach past the input, but must start in
// the input or its left padding.
int pooled(int in, int kernel, int stride, int pad, bool ceil_mode) {
  if (!ceil_mode) return convolved(in, kernel, stride, pad, 1);
  const int out = std::max(0, in + 2 * pad - kernel + stride - 1) / stride + 1;
  return (out - 1) * stride >= in + pad ? out - 1 : out;
}

template <class Pool>
Shape pool_shape(const Pool& op, const Shape& in) {
  check_pair("kernel", op.kernel, 1);
  check_pair("stride", op.stride, 1);
  check_pair("padding", op.padding, 0);
  for (std::size_t i = 0; i < 2; ++i) {
    if (op.padding[i] * 2 > op.kernel[i]) {
      fail("wanted padding of at most half the kernel " + pair_text(op.kernel) + ", found " +
           pair_text(op.padding));
    }
  }
  return {in.channels, pooled(in.height, op.kernel[0], op.stride[0], op.padding[0], op.ceil_mode),
          pooled(in.width, op.kernel[1], op.stride[1], op.padding[1], op.ceil_mode)};
}

Shape conv_shape(const Conv2d& op, const Shape& in) {
  check_pair("kernel", op.kernel, 1);
  check_pair("stride", op.stride, 1);
  check_pair("padding", op.padding, 0);
  check_pair("dilation", op.dilation, 1);
  if (in.channels != op.in_channels) {
    fail("wanted an input of " + std::to_string(op.in_channels) + " channels, found " +
         to_string(in));
  }
  if (op.groups < 1 || op.in_channels % op.groups != 0 || op.out_channels < 1 ||
      op.out_channels % op.groups != 0) {
    fail("wanted groups that divide " + std::to_string(op.in_channels) + " and " +
         std::to_string(op.out_channels) + " channels, found " + std::to_string(op.groups));
  }
  return {op.out_channels,
          convolved(in.height, op.kernel[0], op.stride[0], op.padding[0], op.dilation[0]),
          convolved(in.width, op.kernel[1], op.stride[1], op.padding[1], op.dilation[1])};
}

void check_inputs(const char* name, std::size_t found, std::size_t least, std::size_t most) {
  if (found >= least && found <= most) return;
  fail(std::string("wanted ") + std::to_string(least) + (most > least ? " or more" : "") +
       " inputs of " + name + ", found " + std::to_string(found));
}

void check_weights(const Layer& layer, const char* what, std::span<const float> values,
                   std::size_t wanted) {
  if (values.size() != wanted) {
    fail("layer " + layer.name + ": wanted " + std::to_string(wanted) + " values of " + what +
         ", found " + std::to_string(values.size()));
  }
  for (float v : values) {
    if (!std::isfinite(v)) {
      fail("layer " + layer.name + ": wanted finite values of " + what + ", found " +
           (std::isnan(v) ? "NaN" : "infinity"));
    }
  }
}

std::size_t product(std::initializer_list<int> factors) {
  std::size_t result = 1;
  for (int f : factors) result *= static_cast<std::size_t>(f);
  return result;
}

void check_layer_weights(const Layer& layer, int in_channels) {
  const auto optional = [&](const char* what, std::span<const float> values, int wanted) {
    if (!values.empty()) check_weights(layer, what, values, product({wanted}));
  };
  if (const auto* conv = std::get_if<Conv2d>(&layer.op)) {
    check_weights(layer, "weight", conv->weight,
                  product({conv->out_channels, conv->in_channels / conv->groups, conv->kernel[0],
                           conv->kernel[1]}));
    optional("bias", conv->bias, conv->out_channels);
  } else if (const auto* linear = std::get_if<Linear>(&layer.op)) {
    check_weights(layer, "weight", linear->weight,
                  product({linear->out_features, linear->in_features}));
    optional("bias", linear->bias, linear->out_features);
  } else if (const auto* norm = std::get_if<BatchNorm>(&layer.op)) {
    optional("weight", norm->weight, in_channels);
    optional("bias", norm->bias, in_channels);
    check_weights(layer, "mean", norm->mean, product({in_channels}));
    check_weights(layer, "variance", norm->variance, product({in_channels}));
    for (float v : norm->variance) {
      if (!(v + norm->epsilon > 0.0f)) fail("layer " + layer.name + ": wanted variance > 0");
    }
  }
}

}  // namespace

const char* op_name(const Op& op) {
  return std::visit(Overloaded{
                        [](const Conv2d&) { return "conv2d"; },
                        [](const Linear&) { return "linear"; },
                        [](const BatchNorm&) { return "batch_norm"; },
                        [](const Relu&) { return "relu"; },
                        [](const Add&) { return "add"; },
                        [](const Concat&) { return "concat"; },
                        [](const MaxPool&) { return "max_pool"; },
                        [](const AveragePool&) { return "average_pool"; },
                        [](const GlobalAveragePool&) { return "global_average_pool"; },
                        [](const Flatten&) { return "flatten"; },
                        [](const Subsample&) { return "subsample"; },
                        [](const PadChannels&) { return "pad_channels"; },
                    },
                    op);
}

Shape output_shape(const Op& op, std::span<const Shape> inputs) {
  constexpr std::size_t kAny = 1024;
  const bool concat = std::holds_alternative<Concat>(op);
  const bool add = std::holds_alternative<Add>(op);
  const bool conv = std::holds_alternative<Conv2d>(op);
  check_inputs(op_name(op), inputs.size(), concat || add ? 2 : 1,
               concat ? kAny : (add || conv ? 2 : 1));
  const Shape& in = inputs[0];
  const Shape out = std::visit(Overloaded{
                                   [&](const Conv2d& o) { return conv_shape(o, in); },
                                   [&](const Linear& o) -> Shape {
                                     if (in != Shape{o.in_features, 1, 1} || o.out_features < 1) {
                                       fail("wanted a vector of " + std::to_string(o.in_features) +
                                            ", found " + to_string(in));
                                     }
                                     return {o.out_features, 1, 1};
                                   },
                                   [&](const BatchNorm&) { return in; },
                                   [&](const Relu&) { return in; },
                                   [&](const Add&) { return in; },
                                   [&](const Concat&) {
                                     Shape joined = in;
                                     for (const Shape& other : inputs.subspan(1)) {
                                       if (other.height != in.height || other.width != in.width) {
                                         fail("wanted equal heights and widths, found " +
                                              to_string(in) + " and " + to_string(other));
                                       }
                                       joined.channels += other.channels;
                                     }
                                     return joined;
                                   },
                                   [&](const MaxPool& o) { return pool_shape(o, in); },
                                   [&](const AveragePool& o) { return pool_shape(o, in); },
                                   [&](const GlobalAveragePool&) -> Shape {
                                     return {in.channels, 1, 1};
                                   },
                                   [&](const Flatten&) -> Shape {
                                     return {static_cast<int>(in.elements()), 1, 1};
                                   },
                                   [&](const Subsample& o) -> Shape {
                                     check_pair("stride", o.stride, 1);
                                     return {in.channels, (in.height - 1) / o.stride[0] + 1,
                                             (in.width - 1) / o.stride[1] + 1};
                                   },
                                   [&](const PadChannels& o) -> Shape {
                                     check_pair("padding", {o.before, o.after}, 0);
                                     return {in.channels + o.before + o.after, in.height, in.width};
                                   },
                               },
                               op);
  const Shape& skip = inputs.back();
  if ((add || conv) && inputs.size() == 2 && skip != out) {
    fail("wanted two summands of " + to_string(out) + ", found " + to_string(skip));
  }
  if (out.height < 1 || out.width < 1 || out.elements() > kMaxElements) {
    fail("wanted 1 to " + std::to_string(kMaxElements) + " values, found " + to_string(out));
  }
  return out;
}

std::uint64_t macs(const Graph& graph, const Layer& layer) {
  if (const auto* conv = std::get_if<Conv2d>(&layer.op)) {
    return graph.values[static_cast<std::size_t>(layer.output)].elements() *
           product({conv->in_channels / conv->groups, conv->kernel[0], conv->kernel[1]});
  }
  if (const auto* linear = std::get_if<Linear>(&layer.op)) {
    return product({linear->in_features, linear->out_features});
  }
  return 0;
}

std::uint64_t parameters(const Layer& layer) {
  return std::visit(Overloaded{
                        [](const Conv2d& o) { return o.weight.size() + o.bias.size(); },
                        [](const Linear& o) { return o.weight.size() + o.bias.size(); },
                        [](const BatchNorm& o) { return o.weight.size() + o.bias.size(); },
                        [](const auto&) { return std::size_t{0}; },
                    },
                    layer.op);
}

std::vector<int> producers(const Graph& graph) {
  std::vector<int> result(graph.values.size(), -1);
  for (std::size_t i = 0; i < graph.layers.size(); ++i) {
    result[static_cast<std::size_t>(graph.layers[i].output)] = static_cast<int>(i);
  }
  return result;
}

void validate(const Graph& graph) {
  const int count = static_cast<int>(graph.values.size());
  std::vector<bool> known(graph.values.size(), false);
  if (count == 0) fail("wanted an input, found a graph without values");
  known[0] = true;
  std::set<std::string> names;
  for (const Layer& layer : graph.layers) {
    if (layer.name.empty() || !names.insert(layer.name).second) {
      fail("wanted distinct layer names, found \"" + layer.name + "\" again");
    }
    std::vector<Shape> inputs;
    for (ValueId id : layer.inputs) {
      if (id < 0 || id >= count || !known[static_cast<std::size_t>(id)]) {
        fail("layer " + layer.name + ": wanted inputs made by earlier layers");
      }
      inputs.push_back(graph.values[static_cast<std::size_t>(id)]);
    }
    if (layer.output <= 0 || layer.output >= count ||
        known[static_cast<std::size_t>(layer.output)]) {
      fail("layer " + layer.name + ": wanted an output of its own");
    }
    const std::size_t output = static_cast<std::size_t>(layer.output);
    known[output] = true;
    try {
      const Shape shape = output_shape(layer.op, inputs);
      if (shape != graph.values[output]) {
        fail("wanted an output of " + to_string(shape) + ", found " +
             to_string(graph.values[output]));
      }
    } catch (const Error& error) {
      fail("layer " + layer.name + ": " + error.what());
    }
    check_layer_weights(layer, inputs[0].channels);
  }
  if (graph.exits.empty()) fail("wanted at least one exit, found none");
  std::set<std::string> exit_names;
  int classes = 0;
  for (const Exit& exit : graph.exits) {
    if (exit.name.empty() || !exit_names.insert(exit.name).second) {
      fail("wanted distinct exit names, found \"" + exit.name + "\" again");
    }
    if (exit.logits <= 0 || exit.logits >= count || !known[static_cast<std::size_t>(exit.logits)]) {
      fail("exit " + exit.name + ": wanted logits made by a layer");
    }
    const Shape& logits = graph.values[static_cast<std::size_t>(exit.logits)];
    if (classes == 0) classes = logits.channels;
    if (logits != Shape{classes, 1, 1} || classes < 2) {
      fail("exit " + exit.name + ": wanted a vector of " + std::to_string(std::max(classes, 2)) +
           " logits, found " + to_string(logits));
    }
    const ExitRule& rule = exit.rule;
    if (!(rule.threshold >= 0.0f && rule.threshold <= 1.0f)) {
      fail("exit " + exit.name + ": wanted a threshold in [0, 1], found " +
           std::to_string(rule.threshold));
    }
  }
}

}  // namespace offramp
