// Encoding and decoding of the tensors that cross at the cuts of ResNet-20, with every codec.
//
// What is decoded is checked before anything is timed: f32 bit for bit, the others against the
// error that net/narrow.h promises. bytes/s counts the floats, once for each direction; "payload"
// is what crosses.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "net/narrow.h"
#include "net/tensor_codec.h"

using namespace offramp;

namespace {

// About half of them 0, as after a ReLU.
std::vector<float> activations(const Shape& shape) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(shape.elements());
  for (float& v : values) v = std::max(0.0f, normal(random));
  return values;
}

bool right(DType dtype, const std::vector<float>& sent, const std::vector<float>& received) {
  const double largest = static_cast<double>(*std::ranges::max_element(sent));
  const double tolerance = dtype == DType::kF32   ? 0.0
                           : dtype == DType::kF16 ? std::ldexp(largest, -11)
                                                  : kQuantiseError * largest / 254.99 * (1 + 1e-6);
  for (std::size_t i = 0; i < sent.size(); ++i) {
    const double off = static_cast<double>(sent[i]) - static_cast<double>(received[i]);
    if (!(std::abs(off) <= tolerance)) return false;
  }
  return true;
}

enum class Part { kEncode, kDecode, kBoth };

void measure(benchmark::State& state, const TensorFormat& format, const Shape& shape, Part part) {
  const std::vector<float> values = activations(shape);
  const View sample{.data = values.data(), .batch = 1, .shape = shape};
  std::vector<float> received(values.size());
  WireTensor tensor = encode_tensor(sample, format);
  if (decode_tensor(tensor, shape, received) || !right(format.dtype, values, received)) {
    state.SkipWithError("what is decoded is not what was encoded");
    return;
  }
  for (auto _ : state) {
    if (part != Part::kDecode) tensor = encode_tensor(sample, format);
    if (part != Part::kEncode) {
      auto error = decode_tensor(tensor, shape, received);
      benchmark::DoNotOptimize(error);
    }
    benchmark::DoNotOptimize(tensor.payload.data());
    benchmark::DoNotOptimize(received.data());
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  const double bytes = static_cast<double>(values.size() * sizeof(float));
  state.counters["bytes/s"] = Counter(part == Part::kBoth ? 2 * bytes : bytes,
                                      Counter::kIsIterationInvariantRate, Counter::OneK::kIs1024);
  state.counters["payload"] = static_cast<double>(tensor.payload.size());
}

void register_all() {
  constexpr Shape kShapes[] = {{16, 32, 32}, {32, 16, 16}};
  constexpr std::pair<const char*, Part> kParts[] = {
      {"encode", Part::kEncode}, {"decode", Part::kDecode}, {"both", Part::kBoth}};
  for (const Shape& shape : kShapes) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel}) {
      for (const Codec codec : {Codec::kRaw, Codec::kLz4}) {
        for (const auto& [what, part] : kParts) {
          const std::string name = to_string(shape) + '/' + dtype_name(dtype) +
                                   (codec == Codec::kLz4 ? "+lz4/" : "/") + what;
          const TensorFormat format{dtype, codec};
          benchmark::RegisterBenchmark(name.c_str(), [format, shape,
                                                      part = part](benchmark::State& state) {
            measure(state, format, shape, part);
          })->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
