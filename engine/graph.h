// The network as data: layers in execution order, the values between them, the exits.
//
// A value is the tensor some layer produces; value 0 is the network's input. Layers keep the module
// paths they had in PyTorch, and their attributes PyTorch's names and meaning.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/exits.h"
#include "engine/tensor.h"

namespace offramp {

using ValueId = int;
inline constexpr ValueId kNoValue = -1;

/// Height and width, in this order.
using Pair = std::array<int, 2>;

/// y = relu?(conv(x, weight) + bias + skip). `weight` is PyTorch's [out, in/groups, kh, kw];
/// `bias` may be empty. `relu` and a second input (the skip) appear only after fusion.
struct Conv2d {
  int in_channels = 0, out_channels = 0;
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int groups = 1;
  std::span<const float> weight, bias;
  bool relu = false;
};

/// y = relu?(weight * x + bias) for a vector x; `weight` is [out, in], `bias` may be empty.
struct Linear {
  int in_features = 0, out_features = 0;
  std::span<const float> weight, bias;
  bool relu = false;
};

/// y = (x - mean) / sqrt(variance + epsilon) * weight + bias per channel, statistics frozen.
struct BatchNorm {
  std::span<const float> weight, bias, mean, variance;
  float epsilon = 1e-5f;
};

struct Relu {};

/// y = relu?(a + b), equal shapes.
struct Add {
  bool relu = false;
};

/// Joins any number of inputs along the channels.
struct Concat {};

struct MaxPool {
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0};
  bool ceil_mode = false;
};

struct AveragePool {
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0};
  bool ceil_mode = false;
  bool count_include_pad = true;
};

/// Mean over height and width: C x H x W -> C.
struct GlobalAveragePool {};

/// C x H x W -> a vector in PyTorch's order (channel, row, column).
struct Flatten {};

/// x[:, :, ::stride[0], ::stride[1]]
struct Subsample {
  Pair stride{1, 1};
};

/// Adds zero channels before and after the existing ones.
struct PadChannels {
  int before = 0, after = 0;
};

using Op = std::variant<Conv2d, Linear, BatchNorm, Relu, Add, Concat, MaxPool, AveragePool,
                        GlobalAveragePool, Flatten, Subsample, PadChannels>;

/// The name used in model files and listings: "conv2d", "linear", ...
const char* op_name(const Op& op);

struct Layer {
  std::string name;
  Op op;
  std::vector<ValueId> inputs;
  ValueId output = kNoValue;
};

/// An answer of the network: `logits` is a vector with one entry per class.
struct Exit {
  std::string name;
  ValueId logits = kNoValue;
  ExitRule rule{};  ///< when it answers; the last one's threshold is not asked
};

struct Graph {
  std::vector<Shape> values;  ///< indexed by ValueId; values[0] is the input
  std::vector<Layer> layers;  ///< every layer stands after those it reads from
  std::vector<Exit> exits;    ///< earliest first; the last one always answers
};

/// Shape that `op` makes of `inputs`. Throws Error{kBadModel} naming what does not fit.
Shape output_shape(const Op& op, std::span<const Shape> inputs);

/// Multiply-accumulates of one sample: convolutions and linear layers; everything else counts 0.
std::uint64_t macs(const Graph& graph, const Layer& layer);

/// Weights and biases of a layer.
std::uint64_t parameters(const Layer& layer);

/// Checks what the rest of the engine relies on: order, ids, shapes, weight sizes, finite weights,
/// at least one exit, logits of equal length. Throws Error{kBadModel}.
void validate(const Graph& graph);

/// For every value the index of the layer that makes it; -1 for the input.
std::vector<int> producers(const Graph& graph);

}  // namespace offramp
