#include "engine/step.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "engine/overloaded.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"
#include "kernels/packing.h"

namespace offramp {
namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }

template <class Pool>
PoolShape pool_shape(const Pool& o, const Shape& in, const Shape& out) {
  PoolShape s{in.channels, in.height,   in.width,    out.height,   out.width,   o.kernel[0],
              o.kernel[1], o.stride[0], o.stride[1], o.padding[0], o.padding[1]};
  if constexpr (std::is_same_v<Pool, AveragePool>) s.count_include_pad = o.count_include_pad;
  return s;
}

float* store(Step& step, std::size_t floats) {
  step.storage.emplace_back(floats);
  return step.storage.back().data();
}

const float* store(Step& step, std::span<const float> values) {
  if (values.empty()) return nullptr;
  float* copy = store(step, values.size());
  std::copy(values.begin(), values.end(), copy);
  return copy;
}

void pack(Step& step, const KernelTable& kernels, const Conv2d& op) {
  const ConvShape shape = conv_shape(op, step.in[0], step.out);
  const int columns = kernels.tile_columns;
  const auto packed = [&](std::size_t floats) {
    step.weight_floats = floats;
    float* to = store(step, floats);
    step.weights = to;
    return to;
  };
  switch (step.path) {
    case ConvPath::kDirect:
      pack_conv(shape, columns, op.weight.data(), packed(packed_conv_floats(shape, columns)));
      break;
    case ConvPath::kWinograd2:
    case ConvPath::kWinograd4:
    case ConvPath::kWinograd6: {
      const int tile = winograd_tile(step.path);
      pack_winograd(shape, tile, columns, op.weight.data(),
                    packed(packed_winograd_floats(shape, tile, columns)));
      break;
    }
    case ConvPath::kDepthwise:
      pack_depthwise(shape, op.weight.data(), packed(packed_depthwise_floats(shape)));
      break;
    case ConvPath::kIm2col:
      blas::pack_conv(shape, op.weight.data(), packed(op.weight.size()));
      break;
  }
  step.bias = store(step, op.bias);
}

void pack(Step& step, const KernelTable& kernels, const Linear& op) {
  const int columns = kernels.tile_columns;
  if (step.path == ConvPath::kIm2col) {
    step.weights = store(step, op.weight);
    step.weight_floats = op.weight.size();
  } else {
    step.weight_floats = packed_linear_floats(op.in_features, op.out_features, columns);
    float* packed = store(step, step.weight_floats);
    pack_linear(op.in_features, op.out_features, columns, op.weight.data(), packed);
    step.weights = packed;
  }
  step.bias = store(step, op.bias);
}

void pack(Step& step, const KernelTable&, const BatchNorm& op) {
  const std::size_t channels = op.mean.size();
  float* scale = store(step, channels);
  float* shift = store(step, channels);
  for (std::size_t c = 0; c < channels; ++c) {
    const double deviation = std::sqrt(static_cast<double>(op.variance[c]) + op.epsilon);
    const double factor = (op.weight.empty() ? 1.0 : op.weight[c]) / deviation;
    scale[c] = static_cast<float>(factor);
    shift[c] = static_cast<float>((op.bias.empty() ? 0.0 : op.bias[c]) - op.mean[c] * factor);
  }
  step.weights = scale;
  step.bias = shift;
}

KernelTable::Conv conv_kernel(ConvPath path, const KernelTable& kernels) {
  switch (path) {
    case ConvPath::kWinograd2:
      return kernels.winograd2;
    case ConvPath::kWinograd4:
      return kernels.winograd4;
    case ConvPath::kWinograd6:
      return kernels.winograd6;
    default:
      return kernels.conv2d;
  }
}

}  // namespace

ConvShape conv_shape(const Conv2d& o, const Shape& in, const Shape& out) {
  return {o.in_channels, in.height,    in.width,      o.out_channels, out.height,
          out.width,     o.kernel[0],  o.kernel[1],   o.stride[0],    o.stride[1],
          o.padding[0],  o.padding[1], o.dilation[0], o.dilation[1],  o.groups};
}

void pack_weights(Step& step, const KernelTable& kernels) {
  std::visit(Overloaded{
                 [&](Conv2d& o) {
                   pack(step, kernels, o);
                   o.weight = o.bias = {};
                 },
                 [&](Linear& o) {
                   pack(step, kernels, o);
                   o.weight = o.bias = {};
                 },
                 [&](BatchNorm& o) {
                   pack(step, kernels, o);
                   o.weight = o.bias = o.mean = o.variance = {};
                 },
                 [](auto&) {},
             },
             step.op);
}

std::size_t scratch_floats(const Step& step, const KernelTable& kernels, int samples) {
  const auto* op = std::get_if<Conv2d>(&step.op);
  if (op == nullptr) return 0;
  const ConvShape shape = conv_shape(*op, step.in[0], step.out);
  switch (step.path) {
    case ConvPath::kDirect:
      return conv_scratch_floats(shape);
    case ConvPath::kWinograd2:
    case ConvPath::kWinograd4:
    case ConvPath::kWinograd6:
      return winograd_scratch_floats(shape, samples, winograd_tile(step.path),
                                     kernels.tile_columns);
    case ConvPath::kDepthwise:
      return 0;
    case ConvPath::kIm2col:
      return blas::conv_scratch_floats(shape);
  }
  return 0;
}

bool can_share(const Step& step) {
  return step.path != ConvPath::kIm2col &&
         (std::holds_alternative<Conv2d>(step.op) || std::holds_alternative<Linear>(step.op));
}

void run_step(const Step& step, const KernelTable& kernels, const Frame& frame) noexcept {
  const int batch = frame.samples;
  const Shape& in = step.in[0];
  const std::size_t in_size = in.elements(), out_size = step.out.elements();
  const int in_pixels = in.height * in.width;
  const auto place = [&](const Operand& o, std::size_t floats) -> float* {
    return o.place == Operand::Place::kBatch ? frame.batch + o.offset + at(frame.first) * floats
                                             : frame.local + o.offset;
  };
  const auto read = [&](std::size_t i) -> const float* {
    const Operand& o = step.inputs[i];
    const std::size_t floats = step.in[i].elements();
    return o.place == Operand::Place::kInput ? frame.input + at(frame.first) * floats
                                             : place(o, floats);
  };
  const float* const x = read(0);
  float* const y = place(step.output, out_size);
  // Kernels of one sample, for every sample of the frame.
  const auto each = [&](auto kernel) {
    for (std::size_t n = 0; n < at(batch); ++n) kernel(x + n * in_size, y + n * out_size, n);
  };

  std::visit(
      Overloaded{
          [&](const Conv2d& o) {
            const ConvShape shape = conv_shape(o, in, step.out);
            const Epilogue e{step.bias, step.inputs.size() == 2 ? read(1) : nullptr, o.relu};
            float* scratch = frame.scratch + step.scratch_offset;
            if (step.path == ConvPath::kDepthwise) {
              kernels.depthwise_conv2d(shape, batch, x, step.weights, e, frame.part, y);
            } else if (step.path == ConvPath::kIm2col) {
              each([&](const float* from, float* to, std::size_t n) {
                const Epilogue here{e.bias, e.skip ? e.skip + n * out_size : nullptr, e.relu};
                blas::conv2d(shape, from, step.weights, here, scratch, to);
              });
            } else {
              conv_kernel(step.path, kernels)(shape, batch, x, step.weights, e, scratch, frame.part,
                                              y);
            }
          },
          [&](const Linear& o) {
            const Epilogue e{step.bias, nullptr, o.relu};
            if (step.path != ConvPath::kIm2col) {
              kernels.linear(batch, o.in_features, o.out_features, x, step.weights, e, frame.part,
                             y);
              return;
            }
            each([&](const float* from, float* to, std::size_t) {
              blas::linear(o.in_features, o.out_features, from, step.weights, e, to);
            });
          },
          [&](const BatchNorm&) {
            kernels.batch_norm(batch * in_pixels, in.channels, x, step.weights, step.bias, y);
          },
          [&](const Relu&) { kernels.relu(batch * static_cast<int>(in_size), x, y); },
          [&](const Add& o) {
            kernels.add(batch * static_cast<int>(in_size), x, read(1), o.relu, y);
          },
          [&](const Concat&) {
            int first = 0;
            for (std::size_t i = 0; i < step.in.size(); ++i) {
              copy_channels(batch * in_pixels, step.in[i].channels, read(i), first,
                            step.out.channels, y);
              first += step.in[i].channels;
            }
          },
          [&](const MaxPool& o) {
            const PoolShape shape = pool_shape(o, in, step.out);
            each([&](const float* from, float* to, std::size_t) {
              kernels.max_pool(shape, from, to);
            });
          },
          [&](const AveragePool& o) {
            const PoolShape shape = pool_shape(o, in, step.out);
            each([&](const float* from, float* to, std::size_t) {
              kernels.average_pool(shape, from, to);
            });
          },
          [&](const GlobalAveragePool&) {
            each([&](const float* from, float* to, std::size_t) {
              kernels.global_average_pool(in_pixels, in.channels, from, to);
            });
          },
          [&](const Flatten&) {
            if (in_pixels == 1) return;  // the output is the input
            each([&](const float* from, float* to, std::size_t) {
              to_channels_first(in.channels, in.height, in.width, from, to);
            });
          },
          [&](const Subsample& o) {
            each([&](const float* from, float* to, std::size_t) {
              subsample(in.channels, in.height, in.width, o.stride[0], o.stride[1], from, to);
            });
          },
          [&](const PadChannels& o) {
            pad_channels(batch * in_pixels, in.channels, o.before, o.after, x, y);
          },
      },
      step.op);
}

}  // namespace offramp
