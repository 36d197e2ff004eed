#include "engine/plan.h"

#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdlib>
#include <limits>

#include "engine/chunking.h"
#include "engine/error.h"
#include "engine/memory_planner.h"
#include "engine/step.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"

namespace offramp {
namespace {

using Place = Operand::Place;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Waking another thread costs as much as about this many multiply-accumulates; work is shared only
// where each thread gets more.
constexpr double kShareCost = 100e3;

// Samples that typically go through a layer together, where there are so many.
constexpr int kSharing = 8;

constexpr std::size_t kLineFloats = Buffer::kAlignment / sizeof(float);

std::size_t whole_lines(std::size_t floats) {
  return (floats + kLineFloats - 1) / kLineFloats * kLineFloats;
}

// What fits the second-level cache and leaves a quarter for everything else.
std::size_t cache_floats() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  const long bytes = 0;
#endif
  constexpr long kSmallest = 256 * 1024;  // where the system does not know, or says nonsense
  return static_cast<std::size_t>(std::max(bytes, kSmallest)) / sizeof(float) / 4 * 3;
}

StepTraffic traffic(const Step& step, const KernelTable& kernels) {
  StepTraffic t;
  t.scratch_floats = scratch_floats(step, kernels, 1);
  t.weight_floats = step.weight_floats;
  t.output_floats = step.out.elements();
  t.activation_floats = t.output_floats;
  for (const Shape& in : step.in) t.activation_floats += in.elements();
  // A linear layer's weights are best divided among the threads, so that each is read only once.
  t.alone = std::holds_alternative<Linear>(step.op) && can_share(step) &&
            t.weight_floats > cache_floats();
  return t;
}

// A path for each layer of the segment; kDirect for what is no convolution. Where the weights come
// from depends on how many there are, and that on the paths: what these would be if all were near
// tells whether they can be.
std::vector<ConvPath> choose_paths(const Graph& graph, const Segment& segment,
                                   const PlanOptions& options, int together,
                                   const KernelTable& kernels) {
  std::vector<ConvPath> paths(segment.layers.size(), ConvPath::kDirect);
  const auto choose = [&](WeightsHome home) {
    std::size_t weights = 0;
    for (std::size_t i = 0; i < paths.size(); ++i) {
      const Layer& layer = graph.layers[at(segment.layers[i])];
      const Shape &in = graph.values[at(layer.inputs[0])], &out = graph.values[at(layer.output)];
      if (std::holds_alternative<Linear>(layer.op)) weights += in.elements() * out.elements();
      const auto* conv = std::get_if<Conv2d>(&layer.op);
      if (conv == nullptr) continue;
      const ConvShape shape = conv_shape(*conv, in, out);
      const auto wanted = options.paths.find(layer.name);
      paths[i] = wanted != options.paths.end() && can_compute(wanted->second, shape)
                     ? wanted->second
                     : choose_conv_path(options.convolution, shape, together, home, kernels);
      weights += conv_weight_floats(paths[i], shape, kernels);
    }
    return weights;
  };
  const std::size_t weights = choose(WeightsHome::kNear);
  if (weights > kLastLevelFloats) {
    choose(WeightsHome::kMemory);
  } else if (weights > cache_floats()) {
    choose(WeightsHome::kLastLevel);
  }
  return paths;
}

// Calls f(); the time that takes goes to `clock`.
template <class F>
void timed(StepClock* clock, int thread, int step, double share, F f) noexcept {
  if (clock == nullptr) {
    f();
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  f();
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  clock->add(thread, step, took.count() * share);
}

}  // namespace

StepClock::StepClock(int steps, int threads) : steps_(steps), ns_(at(steps) * at(threads), 0.0) {}

double StepClock::nanoseconds(int step) const {
  double sum = 0.0;
  for (std::size_t i = at(step); i < ns_.size(); i += at(steps_)) sum += ns_[i];
  return sum;
}

void StepClock::add(int thread, int step, double nanoseconds) {
  ns_[at(thread) * at(steps_) + at(step)] += nanoseconds;
}

struct Plan::Impl {
  const KernelTable* kernels = nullptr;
  int max_batch = 1;
  int threads = 1;
  std::vector<Step> steps;
  std::vector<Chunk> chunks;
  Operand logits, carry;
  Shape input_shape, logits_shape, carry_shape;
  std::size_t batch_floats = 0;   ///< of the arena: first the memory of the batch,
  std::size_t thread_floats = 0;  ///< then that of each thread

  void divide_batch();
  void lay_out(const Graph& graph, const Segment& segment);

  int samples_of_a_thread() const { return (max_batch + threads - 1) / threads; }

  /// Samples that a thread's memory has room for: its share of a batch; or, where there are fewer
  /// samples than threads, all of them.
  int capacity(const Chunk& chunk) const {
    return std::max(chunk.samples, std::min(max_batch, threads - 1));
  }

  struct Run {
    View input;
    float* arena;
    ThreadPool* pool;
    int workers;
    StepClock* clock;
  };
  Frame frame(const Run& run, int first, int samples, int owner, int worker, Part part) const;
  void run_together(const Chunk& chunk, const Run& run) const noexcept;
  void run_apart(const Chunk& chunk, const Run& run) const noexcept;
};

void Plan::Impl::divide_batch() {
  std::vector<StepTraffic> moved;
  for (const Step& step : steps) moved.push_back(traffic(step, *kernels));
  chunks = divide(moved, samples_of_a_thread(), cache_floats());
  for (Chunk& chunk : chunks) {
    if (moved[at(chunk.first)].alone) chunk.samples = max_batch;
  }
}

// Gives every value of the segment, and every step's scratch, its place in the arena.
void Plan::Impl::lay_out(const Graph& graph, const Segment& segment) {
  const int end = static_cast<int>(steps.size());
  std::vector<int> chunk_of(at(end));
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    for (int i = chunks[c].first; i < chunks[c].end; ++i) chunk_of[at(i)] = static_cast<int>(c);
  }

  // A tensor of its own for every value, but a flattened vector is the vector itself.
  struct Tensor {
    int first, last;
    std::size_t floats;
    bool leaves = false;  ///< the segment
    Operand operand = {};
  };
  constexpr int kExternal = -1;
  std::vector<int> tensor(graph.values.size(), kExternal);
  std::vector<Tensor> tensors;
  for (int i = 0; i < end; ++i) {
    const Layer& layer = graph.layers[at(segment.layers[at(i)])];
    const Shape& in = graph.values[at(layer.inputs[0])];
    for (ValueId id : layer.inputs) {
      if (tensor[at(id)] != kExternal) tensors[at(tensor[at(id)])].last = i;
    }
    if (std::holds_alternative<Flatten>(layer.op) && in.height * in.width == 1) {
      tensor[at(layer.output)] = tensor[at(layer.inputs[0])];
      continue;
    }
    tensor[at(layer.output)] = static_cast<int>(tensors.size());
    tensors.push_back({i, i, graph.values[at(layer.output)].elements()});
  }
  for (ValueId id : {graph.exits[at(segment.exit)].logits, segment.carry}) {
    if (id != kNoValue && tensor[at(id)] != kExternal) tensors[at(tensor[at(id)])].leaves = true;
  }

  // What lives within a chunk needs room for its samples only, once for each thread. Threads do not
  // wait for each other inside a chunk, so what crosses to another one lives through both.
  std::vector<Lifetime> local, shared;
  std::vector<std::size_t> local_tensors, shared_tensors;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const Tensor& it = tensors[t];
    const int from = chunk_of[at(it.first)], to = chunk_of[at(it.last)];
    if (from == to && !it.leaves) {
      local.push_back({it.first, it.last, it.floats * at(capacity(chunks[at(from)]))});
      local_tensors.push_back(t);
    } else {
      const int last = it.leaves ? end : chunks[at(to)].end - 1;
      shared.push_back({chunks[at(from)].first, last, it.floats * at(max_batch)});
      shared_tensors.push_back(t);
    }
  }
  for (int i = 0; i < end; ++i) {
    const int samples = capacity(chunks[at(chunk_of[at(i)])]);
    local.push_back({i, i, scratch_floats(steps[at(i)], *kernels, samples)});
  }
  const Placement in_thread = place(local, kLineFloats), in_batch = place(shared, kLineFloats);
  batch_floats = whole_lines(in_batch.floats);
  thread_floats = whole_lines(in_thread.floats);
  for (std::size_t i = 0; i < local_tensors.size(); ++i) {
    tensors[local_tensors[i]].operand = {Place::kThread, in_thread.offsets[i]};
  }
  for (std::size_t i = 0; i < shared_tensors.size(); ++i) {
    tensors[shared_tensors[i]].operand = {Place::kBatch, in_batch.offsets[i]};
  }

  const auto operand = [&](ValueId id) {
    const int t = tensor[at(id)];
    return t == kExternal ? Operand{} : tensors[at(t)].operand;
  };
  for (int i = 0; i < end; ++i) {
    const Layer& layer = graph.layers[at(segment.layers[at(i)])];
    Step& step = steps[at(i)];
    for (ValueId id : layer.inputs) step.inputs.push_back(operand(id));
    step.output = operand(layer.output);
    step.scratch_offset = in_thread.offsets[local_tensors.size() + at(i)];
  }
  logits = operand(graph.exits[at(segment.exit)].logits);
  if (segment.carry != kNoValue) carry = operand(segment.carry);
}

// Samples [first, first + samples) in the memory of thread `owner`, computed by `worker`.
Frame Plan::Impl::frame(const Run& run, int first, int samples, int owner, int worker,
                        Part part) const {
  float* const threads_memory = run.arena + batch_floats;
  return {run.input.data,
          run.arena,
          threads_memory + at(owner) * thread_floats,
          threads_memory + at(worker) * thread_floats,
          first,
          samples,
          part};
}

// All samples at once, and the threads share each step's outputs.
void Plan::Impl::run_together(const Chunk& chunk, const Run& run) const noexcept {
  const int batch = run.input.batch;
  for (int i = chunk.first; i < chunk.end; ++i) {
    const Step& step = steps[at(i)];
    const double cost = step.macs * batch;
    const int parts = can_share(step) && cost >= kShareCost * run.workers ? run.workers : 1;
    timed(run.clock, 0, i, 1.0, [&] {
      if (parts == 1) {
        run_step(step, *kernels, frame(run, 0, batch, 0, 0, {}));
        return;
      }
      run.pool->run(parts, [&](int part, int worker) {
        run_step(step, *kernels, frame(run, 0, batch, 0, worker, {part, parts}));
      });
    });
  }
}

// Each thread takes some samples through all steps of the chunk.
void Plan::Impl::run_apart(const Chunk& chunk, const Run& run) const noexcept {
  const int batch = run.input.batch, workers = run.workers;
  const auto divide_up = [](int a, int b) { return (a + b - 1) / b; };
  const int most = std::min(chunk.samples, divide_up(batch, workers));
  const int visits = divide_up(batch, most * workers);  // of each thread
  const int samples = divide_up(batch, visits * workers);
  const auto visit = [&](int task, int worker) {
    const int first = task * samples;
    const int count = std::min(samples, batch - first);
    const double share = 1.0 / workers;
    for (int i = chunk.first; i < chunk.end; ++i) {
      timed(run.clock, worker, i, share, [&] {
        run_step(steps[at(i)], *kernels, frame(run, first, count, worker, worker, {}));
      });
    }
  };
  const int tasks = divide_up(batch, samples);
  if (workers > 1) {
    run.pool->run(tasks, visit);
  } else {
    for (int task = 0; task < tasks; ++task) visit(task, 0);
  }
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
  impl->max_batch = options.max_batch;
  impl->threads = options.threads;
  impl->input_shape = graph.values[at(segment.input)];
  impl->logits_shape = graph.values[at(graph.exits[at(segment.exit)].logits)];
  if (segment.carry != kNoValue) impl->carry_shape = graph.values[at(segment.carry)];
  // A guess of how many samples will share a visit to the weights: divide_batch() needs these.
  const int together = std::min(kSharing, impl->samples_of_a_thread());
  const std::vector<ConvPath> paths =
      choose_paths(graph, segment, options, together, *impl->kernels);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const Layer& layer = graph.layers[at(segment.layers[i])];
    Step step;
    step.name = layer.name;
    step.op = layer.op;
    step.out = graph.values[at(layer.output)];
    for (ValueId id : layer.inputs) step.in.push_back(graph.values[at(id)]);
    step.macs = static_cast<double>(macs(graph, layer));
    step.path = paths[i];
    if (options.convolution == ConvAlgorithm::kIm2col && std::holds_alternative<Linear>(layer.op)) {
      step.path = ConvPath::kIm2col;
    }
    pack_weights(step, *impl->kernels);
    impl->steps.push_back(std::move(step));
  }
  impl->divide_batch();
  impl->lay_out(graph, segment);
  return Plan(std::move(impl));
}

Plan::Plan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

Plan::Outputs Plan::run(View input, Workspace& workspace, ThreadPool* pool,
                        StepClock* clock) const noexcept {
  const Impl& plan = *impl_;
  assert(input.shape == plan.input_shape);
  assert(input.batch >= 1 && input.batch <= plan.max_batch);
  assert(workspace.floats() >= arena_floats());
  const int workers = pool && pool->threads() <= plan.threads ? pool->threads() : 1;
  const Impl::Run run{input, workspace.data(), pool, workers, clock};
  for (const Chunk& chunk : plan.chunks) {
    // A chunk takes the whole batch at once where no thread's share of it is meant.
    const bool whole = chunk.samples == plan.max_batch;
    if (workers > 1 && (whole || input.batch < workers)) {
      plan.run_together(chunk, run);
    } else {
      plan.run_apart(chunk, run);
    }
  }
  const auto view = [&](const Operand& o, const Shape& shape) -> View {
    return {o.place == Place::kInput ? input.data : run.arena + o.offset, input.batch, shape};
  };
  return {view(plan.logits, plan.logits_shape),
          plan.carry_shape.channels == 0 ? View{} : view(plan.carry, plan.carry_shape)};
}

Workspace Plan::make_workspace() const { return Workspace(arena_floats()); }
std::size_t Plan::arena_floats() const {
  return impl_->batch_floats + impl_->thread_floats * at(impl_->threads);
}
Shape Plan::input_shape() const { return impl_->input_shape; }
Shape Plan::carry_shape() const { return impl_->carry_shape; }
int Plan::classes() const { return impl_->logits_shape.channels; }
int Plan::max_batch() const { return impl_->max_batch; }
int Plan::threads() const { return impl_->threads; }
const KernelTable& Plan::kernels() const { return *impl_->kernels; }

std::vector<StepInfo> Plan::steps() const {
  std::vector<StepInfo> infos;
  for (const Chunk& chunk : impl_->chunks) {
    for (int i = chunk.first; i < chunk.end; ++i) {
      const Step& step = impl_->steps[at(i)];
      StepInfo info;
      info.layer = step.name;
      info.op = op_name(step.op);
      if (std::holds_alternative<Conv2d>(step.op)) info.algorithm = to_string(step.path);
      info.path = step.path;
      info.in = step.in[0];
      info.out = step.out;
      info.macs = step.macs;
      info.weight_bytes = step.weight_floats * sizeof(float);
      info.moved_bytes = traffic(step, *impl_->kernels).activation_floats * sizeof(float);
      info.samples = chunk.samples;
      infos.push_back(std::move(info));
    }
  }
  return infos;
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
