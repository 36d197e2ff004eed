// Convolutions of real networks (bench/shapes/), each instruction set and OpenBLAS side by side.
//
// Every kernel is checked against the scalar twin before it is timed. Counters: FLOP/s (two per
// multiply-accumulate), bytes/s (input, weights and output once).
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"
#include "kernels/packing.h"
#include "kernels/reference.h"

using namespace offramp;

namespace {

std::vector<float> random_floats(std::mt19937& random, std::size_t count) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(count);
  for (float& v : values) v = uniform(random);
  return values;
}

std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

// One layer with random data and the reference's answer for it.
struct Problem {
  ConvShape shape;
  std::vector<float> x, weight, bias, wanted;

  explicit Problem(const ConvShape& s) : shape(s) {
    std::mt19937 random(1);
    const auto first = random_floats(random, size(s.in_channels, s.in_height * s.in_width));
    weight = random_floats(random, size(s.out_channels, s.group_in() * s.taps()));
    bias = random_floats(random, size(s.out_channels, 1));
    x.resize(first.size());
    to_channels_last(s.in_channels, s.in_height, s.in_width, first.data(), x.data());
    std::vector<float> y(size(s.out_channels, s.out_pixels()));
    reference::conv2d(s, first.data(), weight.data(), bias.data(), y.data());
    reference::relu(static_cast<int>(y.size()), y.data(), y.data());
    wanted.resize(y.size());
    to_channels_last(s.out_channels, s.out_height, s.out_width, y.data(), wanted.data());
  }

  // Same bound as in tests/kernels_test.cpp.
  bool right(const std::vector<float>& y) const {
    const float terms = static_cast<float>(shape.group_in() * shape.taps() + 2);
    const float tolerance = 4.0f * 1.2e-7f * terms * std::sqrt(terms);
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (!(std::abs(y[i] - wanted[i]) <= tolerance)) return false;
    }
    return true;
  }
};

template <class Run>
void measure(benchmark::State& state, const Problem& problem, std::vector<float>& y, Run run) {
  run();
  if (!problem.right(y)) {
    state.SkipWithError("the answer differs from the scalar twin's");
    return;
  }
  for (auto _ : state) {
    run();
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  const ConvShape& s = problem.shape;
  const double macs = static_cast<double>(y.size()) * s.group_in() * s.taps();
  const double floats = static_cast<double>(problem.x.size() + problem.weight.size() + y.size());
  using benchmark::Counter;
  state.counters["FLOP/s"] = Counter(2.0 * macs, Counter::kIsIterationInvariantRate);
  state.counters["bytes/s"] =
      Counter(4.0 * floats, Counter::kIsIterationInvariantRate, Counter::OneK::kIs1024);
}

void conv_table(benchmark::State& state, const Problem& problem, const KernelTable& table) {
  const ConvShape& s = problem.shape;
  std::vector<float> packed(packed_conv_floats(s, table.tile_columns));
  std::vector<float> scratch(conv_scratch_floats(s));
  std::vector<float> y(problem.wanted.size());
  pack_conv(s, table.tile_columns, problem.weight.data(), packed.data());
  measure(state, problem, y, [&] {
    table.conv2d(s, 1, problem.x.data(), packed.data(), {problem.bias.data(), nullptr, true},
                 scratch.data(), {}, y.data());
  });
}

void conv_blas(benchmark::State& state, const Problem& problem) {
  const ConvShape& s = problem.shape;
  std::vector<float> matrix(problem.weight.size()), scratch(blas::conv_scratch_floats(s));
  std::vector<float> y(problem.wanted.size());
  blas::pack_conv(s, problem.weight.data(), matrix.data());
  measure(state, problem, y, [&] {
    blas::conv2d(s, problem.x.data(), matrix.data(), {problem.bias.data(), nullptr, true},
                 scratch.data(), y.data());
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
    name << path.stem().string() << '/' << s.in_channels << "->" << s.out_channels << ' '
         << s.in_height << 'x' << s.in_width << " k" << kernel << " s" << stride << '/';
    // Made on first use: a filtered run then pays for the references it needs only.
    const auto problem = [s]() -> const Problem& {
      static std::vector<std::pair<ConvShape, std::unique_ptr<Problem>>> made;
      for (const auto& [shape, p] : made) {
        if (shape == s) return *p;
      }
      return *made.emplace_back(s, std::make_unique<Problem>(s)).second;
    };
    for (const KernelTable* table : available_kernels()) {
      benchmark::RegisterBenchmark(
          (name.str() + table->name).c_str(),
          [problem, table](benchmark::State& state) { conv_table(state, problem(), *table); });
    }
    benchmark::RegisterBenchmark(
        (name.str() + "im2col").c_str(),
        [problem](benchmark::State& state) { conv_blas(state, problem()); });
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s [--benchmark_...] SHAPES.txt...\n", argv[0]);
    return 64;
  }
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::exists(argv[i])) {
      std::fprintf(stderr, "%s: wanted a file of shapes, found nothing\n", argv[i]);
      return 66;
    }
    if (!register_file(argv[i])) return 65;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
