#include "engine/plan.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include "engine/error.h"
#include "engine/memory_planner.h"
#include "engine/overloaded.h"
#include "engine/thread_pool.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"
#include "kernels/packing.h"

namespace offramp {
namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }

/// Where a tensor is during a run: in the caller's input, or in the arena.
struct Operand {
  bool external = false;
  std::size_t offset = 0;
};

/// One layer, ready to run.
struct Step {
  std::string name;
  Op op;
  std::vector<Operand> inputs;
  Operand output;
  std::vector<Shape> in;
  Shape out;
  ConvPath path = ConvPath::kDirect;  ///< of a linear layer: kDirect or kIm2col, that is OpenBLAS
  const float* weights = nullptr;     ///< packed; for a batch norm the scale
  const float* bias = nullptr;        ///< for a batch norm the shift
  Operand scratch;
  std::size_t scratch_floats = 0;  ///< for each thread
  double cost = 0.0;               ///< of one sample, in multiply-accumulates
};

/// What one thread does of a step: some of the samples, and of each of them a part of the outputs.
struct Share {
  int thread = 0;
  int first = 0, samples = 0;
  Part part;
};

// Waking another thread costs as much as about this many multiply-accumulates; a layer is shared
// only where each thread gets more.
constexpr double kShareCost = 100e3;

constexpr std::size_t kLineFloats = Buffer::kAlignment / sizeof(float);

ConvShape conv_shape(const Conv2d& o, const Shape& in, const Shape& out) {
  return {o.in_channels, in.height,    in.width,      o.out_channels, out.height,
          out.width,     o.kernel[0],  o.kernel[1],   o.stride[0],    o.stride[1],
          o.padding[0],  o.padding[1], o.dilation[0], o.dilation[1],  o.groups};
}

template <class Pool>
PoolShape pool_shape(const Pool& o, const Shape& in, const Shape& out) {
  PoolShape s{in.channels, in.height,   in.width,    out.height,   out.width,   o.kernel[0],
              o.kernel[1], o.stride[0], o.stride[1], o.padding[0], o.padding[1]};
  if constexpr (std::is_same_v<Pool, AveragePool>) s.count_include_pad = o.count_include_pad;
  return s;
}

}  // namespace

struct Plan::Impl {
  const KernelTable* kernels = nullptr;
  ConvAlgorithm algorithm = ConvAlgorithm::kAuto;
  int max_batch = 1;
  int threads = 1;
  std::vector<Step> steps;
  std::vector<Buffer> weights;
  Operand logits, carry;
  Shape input_shape, logits_shape, carry_shape;
  std::size_t arena_floats = 0;

  float* store(std::size_t floats) {
    weights.emplace_back(floats);
    return weights.back().data();
  }

  const float* store(std::span<const float> values) {
    if (values.empty()) return nullptr;
    float* copy = store(values.size());
    std::copy(values.begin(), values.end(), copy);
    return copy;
  }

  void prepare(Step& step, const Conv2d& op);
  void prepare(Step& step, const Linear& op);
  void prepare(Step& step, const BatchNorm& op);
  void prepare(Step&, const auto&) {}

  void lay_out(const Graph& graph, const Segment& segment);
  void run(const Step& step, View input, float* arena, ThreadPool* pool) const noexcept;
  void run(const Step& step, View input, float* arena, const Share& share) const noexcept;
};

void Plan::Impl::prepare(Step& step, const Conv2d& op) {
  const ConvShape shape = conv_shape(op, step.in[0], step.out);
  step.bias = store(op.bias);
  step.path = choose_conv_path(algorithm, shape, *kernels);
  const int rows = kernels->tile_rows, columns = kernels->tile_columns;
  switch (step.path) {
    case ConvPath::kDirect: {
      float* packed = store(packed_conv_floats(shape, columns));
      pack_conv(shape, columns, op.weight.data(), packed);
      step.weights = packed;
      step.scratch_floats = offramp::conv_scratch_floats(shape, rows);
      break;
    }
    case ConvPath::kWinograd2:
    case ConvPath::kWinograd4: {
      const int tile = step.path == ConvPath::kWinograd2 ? 2 : 4;
      float* packed = store(packed_winograd_floats(shape, tile, columns));
      pack_winograd(shape, tile, columns, op.weight.data(), packed);
      step.weights = packed;
      step.scratch_floats = winograd_scratch_floats(shape, tile, columns);
      break;
    }
    case ConvPath::kDepthwise: {
      float* packed = store(packed_depthwise_floats(shape));
      pack_depthwise(shape, op.weight.data(), packed);
      step.weights = packed;
      break;
    }
    case ConvPath::kIm2col: {
      float* matrix = store(op.weight.size());
      blas::pack_conv(shape, op.weight.data(), matrix);
      step.weights = matrix;
      step.scratch_floats = blas::conv_scratch_floats(shape);
      break;
    }
  }
}

void Plan::Impl::prepare(Step& step, const Linear& op) {
  step.bias = store(op.bias);
  if (algorithm == ConvAlgorithm::kIm2col) {
    step.path = ConvPath::kIm2col;
    step.weights = store(op.weight);
    return;
  }
  const int columns = kernels->tile_columns;
  float* packed = store(packed_linear_floats(op.in_features, op.out_features, columns));
  pack_linear(op.in_features, op.out_features, columns, op.weight.data(), packed);
  step.weights = packed;
}

void Plan::Impl::prepare(Step& step, const BatchNorm& op) {
  const std::size_t channels = op.mean.size();
  float* scale = store(channels);
  float* shift = store(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    const double deviation = std::sqrt(static_cast<double>(op.variance[c]) + op.epsilon);
    const double factor = (op.weight.empty() ? 1.0 : op.weight[c]) / deviation;
    scale[c] = static_cast<float>(factor);
    shift[c] = static_cast<float>((op.bias.empty() ? 0.0 : op.bias[c]) - op.mean[c] * factor);
  }
  step.weights = scale;
  step.bias = shift;
}

// Gives every value of the segment, and every step's scratch, its place in the arena.
void Plan::Impl::lay_out(const Graph& graph, const Segment& segment) {
  // A tensor of its own for every value, but a flattened vector is the vector itself.
  constexpr int kExternal = -1;
  std::vector<int> tensor(graph.values.size(), kExternal);
  std::vector<Lifetime> lifetimes;
  const int end = static_cast<int>(steps.size());
  for (int i = 0; i < end; ++i) {
    const Layer& layer = graph.layers[at(segment.layers[at(i)])];
    const Shape& in = graph.values[at(layer.inputs[0])];
    for (ValueId id : layer.inputs) {
      if (tensor[at(id)] != kExternal) lifetimes[at(tensor[at(id)])].last = i;
    }
    const bool alias = std::holds_alternative<Flatten>(layer.op) && in.height * in.width == 1;
    if (alias) {
      tensor[at(layer.output)] = tensor[at(layer.inputs[0])];
      continue;
    }
    tensor[at(layer.output)] = static_cast<int>(lifetimes.size());
    lifetimes.push_back({i, i, graph.values[at(layer.output)].elements() * at(max_batch)});
  }
  for (ValueId id : {graph.exits[at(segment.exit)].logits, segment.carry}) {
    if (id != kNoValue && tensor[at(id)] != kExternal) lifetimes[at(tensor[at(id)])].last = end;
  }
  const std::size_t tensors = lifetimes.size();
  for (int i = 0; i < end; ++i)
    lifetimes.push_back({i, i, steps[at(i)].scratch_floats * at(threads)});

  const Placement placement = place(lifetimes, kLineFloats);
  arena_floats = placement.floats;
  const auto operand = [&](ValueId id) -> Operand {
    const int t = tensor[at(id)];
    return t == kExternal ? Operand{true, 0} : Operand{false, placement.offsets[at(t)]};
  };
  for (int i = 0; i < end; ++i) {
    const Layer& layer = graph.layers[at(segment.layers[at(i)])];
    Step& step = steps[at(i)];
    for (ValueId id : layer.inputs) step.inputs.push_back(operand(id));
    step.output = operand(layer.output);
    step.scratch = {false, placement.offsets[tensors + at(i)]};
  }
  logits = operand(graph.exits[at(segment.exit)].logits);
  if (segment.carry != kNoValue) carry = operand(segment.carry);
}

void Plan::Impl::run(const Step& step, View input, float* arena, ThreadPool* pool) const noexcept {
  const int available = pool ? std::min(threads, pool->threads()) : 1;
  const bool worth = step.cost * input.batch >= kShareCost * available;
  const bool splits = std::holds_alternative<Conv2d>(step.op) ||  // one sample among threads
                      std::holds_alternative<Linear>(step.op);
  const bool by_sample = !std::holds_alternative<Linear>(step.op) && input.batch >= available;
  if (available == 1 || !worth || !(by_sample || splits) || step.path == ConvPath::kIm2col) {
    run(step, input, arena, Share{0, 0, input.batch, {}});
    return;
  }
  pool->run(available, [&](int thread, int count) {
    const int first = input.batch * thread / count, end = input.batch * (thread + 1) / count;
    run(step, input, arena,
        by_sample ? Share{thread, first, end - first, {}}
                  : Share{thread, 0, input.batch, {thread, count}});
  });
}

void Plan::Impl::run(const Step& step, View input, float* arena,
                     const Share& share) const noexcept {
  const int batch = share.samples;
  const auto read = [&](std::size_t i) -> const float* {
    const Operand& o = step.inputs[i];
    return (o.external ? input.data : arena + o.offset) + at(share.first) * step.in[i].elements();
  };
  const Shape& in = step.in[0];
  const std::size_t in_size = in.elements(), out_size = step.out.elements();
  const int in_pixels = in.height * in.width;
  const float* const x = read(0);
  float* const y = arena + step.output.offset + at(share.first) * out_size;
  // Kernels of one sample, for every sample of the share.
  const auto each = [&](auto kernel) {
    for (std::size_t n = 0; n < at(batch); ++n) kernel(x + n * in_size, y + n * out_size, n);
  };

  std::visit(
      Overloaded{
          [&](const Conv2d& o) {
            const ConvShape shape = conv_shape(o, in, step.out);
            const float* skip = step.inputs.size() == 2 ? read(1) : nullptr;
            float* scratch = arena + step.scratch.offset + at(share.thread) * step.scratch_floats;
            each([&](const float* from, float* to, std::size_t n) {
              const Epilogue e{step.bias, skip ? skip + n * out_size : nullptr, o.relu};
              switch (step.path) {
                case ConvPath::kDirect:
                  kernels->conv2d(shape, from, step.weights, e, scratch, share.part, to);
                  break;
                case ConvPath::kWinograd2:
                  kernels->winograd2(shape, from, step.weights, e, scratch, share.part, to);
                  break;
                case ConvPath::kWinograd4:
                  kernels->winograd4(shape, from, step.weights, e, scratch, share.part, to);
                  break;
                case ConvPath::kDepthwise:
                  kernels->depthwise_conv2d(shape, from, step.weights, e, share.part, to);
                  break;
                case ConvPath::kIm2col:
                  blas::conv2d(shape, from, step.weights, e, scratch, to);
                  break;
              }
            });
          },
          [&](const Linear& o) {
            const Epilogue e{step.bias, nullptr, o.relu};
            if (step.path != ConvPath::kIm2col) {
              kernels->linear(batch, o.in_features, o.out_features, x, step.weights, e, share.part,
                              y);
              return;
            }
            each([&](const float* from, float* to, std::size_t) {
              blas::linear(o.in_features, o.out_features, from, step.weights, e, to);
            });
          },
          [&](const BatchNorm&) {
            kernels->batch_norm(batch * in_pixels, in.channels, x, step.weights, step.bias, y);
          },
          [&](const Relu&) { kernels->relu(batch * static_cast<int>(in_size), x, y); },
          [&](const Add& o) {
            kernels->add(batch * static_cast<int>(in_size), x, read(1), o.relu, y);
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
              kernels->max_pool(shape, from, to);
            });
          },
          [&](const AveragePool& o) {
            const PoolShape shape = pool_shape(o, in, step.out);
            each([&](const float* from, float* to, std::size_t) {
              kernels->average_pool(shape, from, to);
            });
          },
          [&](const GlobalAveragePool&) {
            each([&](const float* from, float* to, std::size_t) {
              kernels->global_average_pool(in_pixels, in.channels, from, to);
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

Plan Plan::compile(const Graph& graph, const Segment& segment, const PlanOptions& options) {
  // Kernels count the elements of a whole batch in an int.
  for (int index : segment.layers) {
    const Layer& layer = graph.layers[at(index)];
    const std::size_t elements = graph.values[at(layer.output)].elements();
    if (elements * at(options.max_batch) > at(std::numeric_limits<int>::max())) {
      throw Error(ErrorKind::kUsage,
                  "layer " + layer.name + ": wanted a batch of at most " +
                      std::to_string(at(std::numeric_limits<int>::max()) / elements) + ", found " +
                      std::to_string(options.max_batch));
    }
  }
  auto impl = std::make_unique<Impl>();
  impl->kernels = options.kernels ? options.kernels : &best_kernels();
  impl->algorithm = options.convolution;
  impl->max_batch = options.max_batch;
  impl->threads = options.threads;
  impl->input_shape = graph.values[at(segment.input)];
  impl->logits_shape = graph.values[at(graph.exits[at(segment.exit)].logits)];
  if (segment.carry != kNoValue) impl->carry_shape = graph.values[at(segment.carry)];
  for (int index : segment.layers) {
    const Layer& layer = graph.layers[at(index)];
    Step step;
    step.name = layer.name;
    step.op = layer.op;
    step.out = graph.values[at(layer.output)];
    for (ValueId id : layer.inputs) step.in.push_back(graph.values[at(id)]);
    step.cost = static_cast<double>(macs(graph, layer) + step.out.elements());
    std::visit([&](const auto& op) { impl->prepare(step, op); }, layer.op);
    // Threads write their scratch side by side, in cache lines of their own.
    step.scratch_floats = (step.scratch_floats + kLineFloats - 1) / kLineFloats * kLineFloats;
    impl->steps.push_back(std::move(step));
  }
  impl->lay_out(graph, segment);
  // The weights are in the plan now; nothing may point into the model file any more.
  for (Step& step : impl->steps) {
    std::visit(Overloaded{
                   [](Conv2d& o) { o.weight = o.bias = {}; },
                   [](Linear& o) { o.weight = o.bias = {}; },
                   [](BatchNorm& o) { o.weight = o.bias = o.mean = o.variance = {}; },
                   [](auto&) {},
               },
               step.op);
  }
  return Plan(std::move(impl));
}

Plan::Plan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

Plan::Outputs Plan::run(View input, Workspace& workspace, ThreadPool* pool) const noexcept {
  assert(input.shape == impl_->input_shape);
  assert(input.batch >= 1 && input.batch <= impl_->max_batch);
  assert(workspace.floats() >= impl_->arena_floats);
  float* arena = workspace.data();
  for (const Step& step : impl_->steps) impl_->run(step, input, arena, pool);
  const auto view = [&](const Operand& o, const Shape& shape) -> View {
    return {o.external ? input.data : arena + o.offset, input.batch, shape};
  };
  return {view(impl_->logits, impl_->logits_shape),
          impl_->carry_shape.channels == 0 ? View{} : view(impl_->carry, impl_->carry_shape)};
}

Workspace Plan::make_workspace() const { return Workspace(impl_->arena_floats); }
Shape Plan::input_shape() const { return impl_->input_shape; }
Shape Plan::carry_shape() const { return impl_->carry_shape; }
int Plan::classes() const { return impl_->logits_shape.channels; }
int Plan::max_batch() const { return impl_->max_batch; }
int Plan::threads() const { return impl_->threads; }
const KernelTable& Plan::kernels() const { return *impl_->kernels; }

std::vector<std::string> Plan::describe() const {
  std::vector<std::string> lines;
  for (const Step& step : impl_->steps) {
    std::string line = step.name + ": " + op_name(step.op);
    if (std::holds_alternative<Conv2d>(step.op)) line += std::string(" ") + to_string(step.path);
    line += " " + to_string(step.in[0]) + " -> " + to_string(step.out);
    line += step.output.external ? ", in the input" : ", at " + std::to_string(step.output.offset);
    lines.push_back(std::move(line));
  }
  return lines;
}

PlanOptions plan_options_from_environment() {
  PlanOptions options;
  if (const char* isa = std::getenv("OFFRAMP_ISA"); isa && *isa) {
    options.kernels = find_kernels(isa);
    if (!options.kernels) {
      std::string known;
      for (const KernelTable* table : available_kernels()) {
        known += (known.empty() ? "" : ", ") + std::string(table->name);
      }
      throw Error(ErrorKind::kUsage, "OFFRAMP_ISA: wanted one that this machine runs (" + known +
                                         "), found \"" + isa + "\"");
    }
  }
  if (const char* conv = std::getenv("OFFRAMP_CONV"); conv && *conv) {
    try {
      options.convolution = parse_conv_algorithm(conv);
    } catch (const Error& error) {
      throw Error(error.kind(), std::string("OFFRAMP_CONV: ") + error.what());
    }
  }
  return options;
}

}  // namespace offramp
