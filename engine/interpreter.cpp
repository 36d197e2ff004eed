#include "engine/interpreter.h"

#include <algorithm>

#include "engine/overloaded.h"
#include "kernels/reference.h"

namespace offramp {
namespace {

using Tensor = std::vector<float>;

const float* data_or_null(std::span<const float> values) {
  return values.empty() ? nullptr : values.data();
}

template <class Pool>
PoolShape pool_shape(const Pool& o, const Shape& in, const Shape& out) {
  return {in.channels, in.height,   in.width,    out.height,   out.width,   o.kernel[0],
          o.kernel[1], o.stride[0], o.stride[1], o.padding[0], o.padding[1]};
}

void add_in_place(const Tensor& other, Tensor& y) {
  reference::add(static_cast<int>(y.size()), y.data(), other.data(), y.data());
}

void rectify(bool wanted, Tensor& y) {
  if (wanted) reference::relu(static_cast<int>(y.size()), y.data(), y.data());
}

struct Evaluate {
  const std::vector<const Tensor*>& inputs;
  const std::vector<Shape>& in;
  const Shape& out;
  Tensor& y;

  const float* x() const { return inputs[0]->data(); }
  int pixels() const { return in[0].height * in[0].width; }

  void operator()(const Conv2d& o) const {
    ConvShape s{o.in_channels, in[0].height, in[0].width};
    s.out_channels = o.out_channels;
    s.out_height = out.height;
    s.out_width = out.width;
    s.kernel_height = o.kernel[0];
    s.kernel_width = o.kernel[1];
    s.stride_height = o.stride[0];
    s.stride_width = o.stride[1];
    s.pad_height = o.padding[0];
    s.pad_width = o.padding[1];
    s.dilation_height = o.dilation[0];
    s.dilation_width = o.dilation[1];
    s.groups = o.groups;
    reference::conv2d(s, x(), o.weight.data(), data_or_null(o.bias), y.data());
    if (inputs.size() == 2) add_in_place(*inputs[1], y);
    rectify(o.relu, y);
  }
  void operator()(const Linear& o) const {
    reference::linear(o.in_features, o.out_features, x(), o.weight.data(), data_or_null(o.bias),
                      y.data());
    rectify(o.relu, y);
  }
  void operator()(const BatchNorm& o) const {
    reference::batch_norm(out.channels, pixels(), x(), data_or_null(o.weight), data_or_null(o.bias),
                          o.mean.data(), o.variance.data(), o.epsilon, y.data());
  }
  void operator()(const Relu&) const {
    y = *inputs[0];
    rectify(true, y);
  }
  void operator()(const Add& o) const {
    y = *inputs[0];
    add_in_place(*inputs[1], y);
    rectify(o.relu, y);
  }
  void operator()(const Concat&) const {
    y.clear();
    for (const Tensor* input : inputs) y.insert(y.end(), input->begin(), input->end());
  }
  void operator()(const MaxPool& o) const {
    reference::max_pool(pool_shape(o, in[0], out), x(), y.data());
  }
  void operator()(const AveragePool& o) const {
    PoolShape s = pool_shape(o, in[0], out);
    s.count_include_pad = o.count_include_pad;
    reference::average_pool(s, x(), y.data());
  }
  void operator()(const GlobalAveragePool&) const {
    reference::global_average_pool(in[0].channels, pixels(), x(), y.data());
  }
  void operator()(const Flatten&) const { y = *inputs[0]; }
  void operator()(const Subsample& o) const {
    reference::subsample(in[0].channels, in[0].height, in[0].width, o.stride[0], o.stride[1], x(),
                         y.data());
  }
  void operator()(const PadChannels& o) const {
    std::fill(y.begin(), y.end(), 0.0f);
    std::copy(inputs[0]->begin(), inputs[0]->end(),
              y.begin() + static_cast<std::ptrdiff_t>(o.before) * pixels());
  }
};

}  // namespace

Values interpret(const Graph& graph, std::span<const float> input) {
  Values values(graph.values.size());
  values[0].assign(input.begin(), input.end());
  for (const Layer& layer : graph.layers) {
    std::vector<const Tensor*> inputs;
    std::vector<Shape> in;
    for (ValueId id : layer.inputs) {
      inputs.push_back(&values[static_cast<std::size_t>(id)]);
      in.push_back(graph.values[static_cast<std::size_t>(id)]);
    }
    const Shape& out = graph.values[static_cast<std::size_t>(layer.output)];
    Tensor& y = values[static_cast<std::size_t>(layer.output)];
    y.resize(out.elements());
    std::visit(Evaluate{inputs, in, out, y}, layer.op);
  }
  return values;
}

}  // namespace offramp
