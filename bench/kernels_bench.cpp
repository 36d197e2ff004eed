// Every kernel of every instruction set beside OpenBLAS, on the convolutions of real networks.
//
//   kernels_bench [--benchmark_...] [SHAPES.txt...]      files of bench/shapes/
//
//   conv/NETWORK/SHAPE/ISA/PATH     direct, winograd2, winograd4, winograd6, depthwise
//   conv/NETWORK/SHAPE/openblas     im2col and its matrix product
//   gemm/MxKxN/ISA, .../openblas    y[M, N] = x[M, K] w[N, K]^T; ours with w packed beforehand
//   element/KERNEL/ISA              batch norm, ReLU, sum, poolings, softmax, entropy
//   peak/ISA                        multiply-adds in registers, nothing else
//
// Everything is checked against the scalar twin before it is timed. Counters: FLOP/s (two for each
// multiply-accumulate of the direct sum), of_peak (of this instruction set's own peak), bytes/s
// (input, weights and output once). bench/kernels_report.py makes a table of the JSON.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/conv_algorithm.h"
#include "engine/peak.h"
#include "engine/tensor.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"
#include "kernels/packing.h"
#include "kernels/reference.h"

using namespace offramp;

namespace {

std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

Buffer random_floats(std::mt19937& random, std::size_t count) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Buffer values(count);
  for (std::size_t i = 0; i < count; ++i) values.data()[i] = uniform(random);
  return values;
}

/// Of one core, multiply-accumulates a second; measured once for each table.
double peak_macs(const KernelTable& table) {
  static std::map<const KernelTable*, double> peaks;
  const auto [it, fresh] = peaks.try_emplace(&table, 0.0);
  if (fresh) it->second = measure_peak_macs(table);
  return it->second;
}

/// What a benchmark needs besides the kernel: the right answer and how much work it is.
struct Work {
  std::vector<float> wanted;
  double tolerance = 0.0;
  double macs = 0.0;
  double floats = 0.0;
  const KernelTable* table = nullptr;  ///< whose peak counts; none: the machine's best
};

// Runs once, compares, and only then measures.
void measure(benchmark::State& state, const Work& work, const float* y,
             const std::function<void()>& run) {
  run();
  for (std::size_t i = 0; i < work.wanted.size(); ++i) {
    if (std::abs(y[i] - work.wanted[i]) <= work.tolerance) continue;
    state.SkipWithError("the answer differs from the scalar twin's");
    return;
  }
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(y);
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  constexpr auto kRate = Counter::kIsIterationInvariantRate;
  if (work.macs > 0.0) {
    state.counters["FLOP/s"] = Counter(2.0 * work.macs, kRate);
    const double peak = peak_macs(work.table ? *work.table : best_kernels());
    state.counters["of_peak"] = Counter(work.macs / peak, kRate);
  }
  state.counters["bytes/s"] = Counter(4.0 * work.floats, kRate, Counter::OneK::kIs1024);
}

// Same bounds as in tests/kernels_test.cpp.
double sum_tolerance(int terms) {
  const double k = terms + 2;
  return 4.0 * 1.2e-7 * k * std::sqrt(k);
}

double growth(ConvPath path) {
  switch (winograd_tile(path)) {
    case 2:
      return 4.0;
    case 4:
      return 16.0;
    case 6:
      return 128.0;
    default:
      return 1.0;
  }
}

// ---- convolutions -------------------------------------------------------------------------------

/// A layer with random data and the reference's answer for it.
struct ConvProblem {
  ConvShape shape;
  Buffer x, weight, bias;
  Work work;

  explicit ConvProblem(const ConvShape& s) : shape(s) {
    std::mt19937 random(1);
    const Buffer planes = random_floats(random, size(s.in_channels, s.in_height * s.in_width));
    weight = random_floats(random, size(s.out_channels, s.group_in() * s.taps()));
    bias = random_floats(random, size(s.out_channels, 1));
    x = Buffer(planes.size());
    to_channels_last(s.in_channels, s.in_height, s.in_width, planes.data(), x.data());
    std::vector<float> y(size(s.out_channels, s.out_pixels()));
    reference::conv2d(s, planes.data(), weight.data(), bias.data(), y.data());
    reference::relu(static_cast<int>(y.size()), y.data(), y.data());
    work.wanted.resize(y.size());
    to_channels_last(s.out_channels, s.out_height, s.out_width, y.data(), work.wanted.data());
    work.tolerance = sum_tolerance(s.group_in() * s.taps());
    work.macs = static_cast<double>(y.size()) * s.group_in() * s.taps();
    work.floats = static_cast<double>(x.size() + weight.size() + y.size());
  }
};

void conv_ours(benchmark::State& state, const ConvProblem& problem, const KernelTable& table,
               ConvPath path) {
  const ConvShape& s = problem.shape;
  const int tile = winograd_tile(path), columns = table.tile_columns;
  const Epilogue epilogue{problem.bias.data(), nullptr, true};
  Work work = problem.work;
  work.tolerance *= growth(path);
  work.table = &table;
  Buffer y(work.wanted.size());
  if (path == ConvPath::kDepthwise) {
    Buffer packed(packed_depthwise_floats(s));
    pack_depthwise(s, problem.weight.data(), packed.data());
    measure(state, work, y.data(), [&] {
      table.depthwise_conv2d(s, 1, problem.x.data(), packed.data(), epilogue, {}, y.data());
    });
    return;
  }
  Buffer packed(conv_weight_floats(path, s, table));
  Buffer scratch(tile == 0 ? conv_scratch_floats(s) : winograd_scratch_floats(s, 1, tile, columns));
  if (tile == 0) {
    pack_conv(s, columns, problem.weight.data(), packed.data());
  } else {
    pack_winograd(s, tile, columns, problem.weight.data(), packed.data());
  }
  const KernelTable::Conv kernel = tile == 2   ? table.winograd2
                                   : tile == 4 ? table.winograd4
                                   : tile == 6 ? table.winograd6
                                               : table.conv2d;
  measure(state, work, y.data(), [&] {
    kernel(s, 1, problem.x.data(), packed.data(), epilogue, scratch.data(), {}, y.data());
  });
}

void conv_blas(benchmark::State& state, const ConvProblem& problem) {
  const ConvShape& s = problem.shape;
  Buffer matrix(problem.weight.size()), scratch(blas::conv_scratch_floats(s));
  Buffer y(problem.work.wanted.size());
  blas::pack_conv(s, problem.weight.data(), matrix.data());
  measure(state, problem.work, y.data(), [&] {
    blas::conv2d(s, problem.x.data(), matrix.data(), {problem.bias.data(), nullptr, true},
                 scratch.data(), y.data());
  });
}

/// Made on first use, so that a filtered run pays for what it measures only; the last one is kept.
template <class Problem, class Key>
const Problem& problem_of(const Key& key) {
  static std::unique_ptr<std::pair<Key, Problem>> last;
  if (!last || !(last->first == key)) {
    last = nullptr;
    last = std::make_unique<std::pair<Key, Problem>>(key, Problem(key));
  }
  return last->second;
}

void register_conv(const std::string& name, const ConvShape& s) {
  for (const KernelTable* table : available_kernels()) {
    for (const ConvPath path : {ConvPath::kDirect, ConvPath::kWinograd2, ConvPath::kWinograd4,
                                ConvPath::kWinograd6, ConvPath::kDepthwise}) {
      if (!can_compute(path, s)) continue;
      benchmark::RegisterBenchmark((name + table->name + '/' + to_string(path)).c_str(),
                                   [=](benchmark::State& state) {
                                     conv_ours(state, problem_of<ConvProblem>(s), *table, path);
                                   });
    }
  }
  benchmark::RegisterBenchmark((name + "openblas").c_str(), [=](benchmark::State& state) {
    conv_blas(state, problem_of<ConvProblem>(s));
  });
}

bool register_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#') continue;
    ConvShape s;
    int kernel = 0, stride = 0, pad = 0, times = 0;
    std::istringstream fields(line);
    if (!(fields >> s.in_channels >> s.out_channels >> s.in_height >> s.in_width >> kernel >>
          stride >> pad >> s.groups >> times)) {
      std::fprintf(stderr, "%s: wanted 9 numbers, found \"%s\"\n", path.c_str(), line.c_str());
      return false;
    }
    s.kernel_height = s.kernel_width = kernel;
    s.stride_height = s.stride_width = stride;
    s.pad_height = s.pad_width = pad;
    s.out_height = (s.in_height + 2 * pad - kernel) / stride + 1;
    s.out_width = (s.in_width + 2 * pad - kernel) / stride + 1;
    std::ostringstream name;
    name << "conv/" << path.stem().string() << '/' << s.in_channels << "->" << s.out_channels << '_'
         << s.in_height << 'x' << s.in_width << "_k" << kernel << "_s" << stride;
    if (s.groups > 1) name << "_g" << s.groups;
    register_conv(name.str() + '/', s);
  }
  return true;
}

// ---- matrix products ----------------------------------------------------------------------------

struct Gemm {
  int m, k, n;
  bool operator==(const Gemm&) const = default;
};

struct GemmProblem {
  Gemm size_;
  Buffer x, weight;
  Work work;

  explicit GemmProblem(const Gemm& g) : size_(g) {
    std::mt19937 random(1);
    x = random_floats(random, size(g.m, g.k));
    weight = random_floats(random, size(g.n, g.k));
    work.wanted.resize(size(g.m, g.n));
    for (int row = 0; row < g.m; ++row) {
      reference::linear(g.k, g.n, x.data() + size(row, g.k), weight.data(), nullptr,
                        work.wanted.data() + size(row, g.n));
    }
    work.tolerance = sum_tolerance(g.k);
    work.macs = static_cast<double>(g.m) * g.k * g.n;
    work.floats = static_cast<double>(x.size() + weight.size() + work.wanted.size());
  }
};

void register_gemm(const Gemm& g) {
  std::ostringstream name;
  name << "gemm/" << g.m << 'x' << g.k << 'x' << g.n << '/';
  for (const KernelTable* table : available_kernels()) {
    benchmark::RegisterBenchmark((name.str() + table->name).c_str(), [=](benchmark::State& state) {
      const GemmProblem& problem = problem_of<GemmProblem>(g);
      Buffer packed(packed_linear_floats(g.k, g.n, table->tile_columns));
      pack_linear(g.k, g.n, table->tile_columns, problem.weight.data(), packed.data());
      Buffer y(problem.work.wanted.size());
      Work work = problem.work;
      work.table = table;
      measure(state, work, y.data(), [&] {
        table->linear(g.m, g.k, g.n, problem.x.data(), packed.data(), {}, {}, y.data());
      });
    });
  }
  benchmark::RegisterBenchmark((name.str() + "openblas").c_str(), [=](benchmark::State& state) {
    const GemmProblem& problem = problem_of<GemmProblem>(g);
    Buffer y(problem.work.wanted.size());
    openblas_set_num_threads(1);
    measure(state, problem.work, y.data(), [&] {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, g.m, g.n, g.k, 1.0f, problem.x.data(),
                  g.k, problem.weight.data(), g.k, 0.0f, y.data(), g.n);
    });
  });
}

// ---- the rest -----------------------------------------------------------------------------------

// What the elementwise kernels see in ResNet-20: 16 channels of 32x32, or the logits of 10 classes.
constexpr int kChannels = 16, kSide = 32, kPixels = kSide * kSide, kCount = kChannels * kPixels;
constexpr int kClasses = 10;

PoolShape pool_shape() {
  PoolShape s{kChannels, kSide, kSide, kSide / 2, kSide / 2, 3, 3, 2, 2};
  s.pad_height = s.pad_width = 1;
  return s;
}

/// An elementwise kernel: its fast and its slow version, both channels-last and one picture.
struct Element {
  const char* name;
  int inputs, outputs;
  std::function<void(const KernelTable&, const float*, float*)> fast;
  std::function<void(const float*, float*)> slow;  ///< float[channels, pixels]
};

std::vector<Element> elements() {
  static const std::vector<float> scale(kChannels, 0.5f), shift(kChannels, 0.25f),
      mean(kChannels, 0.0f), variance(kChannels, 1.0f);
  return {
      {"batch_norm", kCount, kCount,
       [](const KernelTable& t, const float* x, float* y) {
         t.batch_norm(kPixels, kChannels, x, scale.data(), shift.data(), y);
       },
       [](const float* x, float* y) {
         reference::batch_norm(kChannels, kPixels, x, scale.data(), shift.data(), mean.data(),
                               variance.data(), 0.0f, y);
       }},
      {"relu", kCount, kCount,
       [](const KernelTable& t, const float* x, float* y) { t.relu(kCount, x, y); },
       [](const float* x, float* y) { reference::relu(kCount, x, y); }},
      {"add", kCount, kCount,
       [](const KernelTable& t, const float* x, float* y) { t.add(kCount, x, x, false, y); },
       [](const float* x, float* y) { reference::add(kCount, x, x, y); }},
      {"max_pool", kCount, kCount / 4,
       [](const KernelTable& t, const float* x, float* y) { t.max_pool(pool_shape(), x, y); },
       [](const float* x, float* y) { reference::max_pool(pool_shape(), x, y); }},
      {"average_pool", kCount, kCount / 4,
       [](const KernelTable& t, const float* x, float* y) { t.average_pool(pool_shape(), x, y); },
       [](const float* x, float* y) { reference::average_pool(pool_shape(), x, y); }},
      {"global_average_pool", kCount, kChannels,
       [](const KernelTable& t, const float* x, float* y) {
         t.global_average_pool(kPixels, kChannels, x, y);
       },
       [](const float* x, float* y) { reference::global_average_pool(kChannels, kPixels, x, y); }},
      {"softmax", kClasses, kClasses,
       [](const KernelTable& t, const float* x, float* y) { t.softmax(kClasses, x, y); },
       [](const float* x, float* y) { reference::softmax(kClasses, x, y); }},
      {"entropy", kClasses, 1,
       [](const KernelTable& t, const float* x, float* y) { *y = t.entropy(kClasses, x); },
       [](const float* x, float* y) { *y = reference::entropy(kClasses, x); }},
  };
}

void run_element(benchmark::State& state, const Element& element, const KernelTable& table) {
  std::mt19937 random(1);
  Buffer planes = random_floats(random, static_cast<std::size_t>(element.inputs));
  if (std::string(element.name) == "entropy") {
    reference::softmax(kClasses, planes.data(), planes.data());
  }
  std::vector<float> wanted(static_cast<std::size_t>(element.outputs));
  element.slow(planes.data(), wanted.data());
  Buffer x(planes.size()), y(wanted.size());
  Work work;
  work.wanted.resize(wanted.size());
  if (element.inputs == kCount) {
    to_channels_last(kChannels, kSide, kSide, planes.data(), x.data());
    const int side = element.outputs == kCount       ? kSide
                     : element.outputs == kCount / 4 ? kSide / 2
                                                     : 1;
    to_channels_last(kChannels, side, side, wanted.data(), work.wanted.data());
  } else {
    std::copy_n(planes.data(), planes.size(), x.data());
    work.wanted = wanted;
  }
  work.tolerance = 1e-5;
  work.floats = static_cast<double>(element.inputs + element.outputs);
  measure(state, work, y.data(), [&] { element.fast(table, x.data(), y.data()); });
}

void register_rest() {
  for (const KernelTable* table : available_kernels()) {
    benchmark::RegisterBenchmark((std::string("peak/") + table->name).c_str(),
                                 [table](benchmark::State& state) {
                                   double best = 0.0;
                                   for (auto _ : state) {
                                     best = std::max(best, measure_peak_macs(*table));
                                   }
                                   state.counters["FLOP/s"] = 2.0 * best;
                                 })
        ->Iterations(5);
    for (const Element& element : elements()) {
      benchmark::RegisterBenchmark(
          (std::string("element/") + element.name + '/' + table->name).c_str(),
          [=](benchmark::State& state) { run_element(state, element, *table); });
    }
  }
  for (const int side : {64, 128, 256, 384, 512, 1024}) register_gemm({side, side, side});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] == '-') {
      std::fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]);
      return 64;
    }
    if (!std::filesystem::exists(argv[i])) {
      std::fprintf(stderr, "%s: wanted a file of shapes, found nothing\n", argv[i]);
      return 66;
    }
    if (!register_file(argv[i])) return 65;
  }
  register_rest();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
