#include "engine/chunking.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

using namespace offramp;

namespace doctest {
template <>
struct StringMaker<std::vector<Chunk>> {
  static String convert(const std::vector<Chunk>& chunks) {
    std::string text;
    for (const Chunk& it : chunks) {
      text += "[" + std::to_string(it.first) + ", " + std::to_string(it.end) + ")x" +
              std::to_string(it.samples) + " ";
    }
    return text.c_str();
  }
};
}  // namespace doctest

namespace {

using Chunks = std::vector<Chunk>;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

StepTraffic step(std::size_t weights, std::size_t activations, std::size_t output = 0) {
  return {.weight_floats = weights, .activation_floats = activations, .output_floats = output};
}

StepTraffic alone(StepTraffic traffic) {
  traffic.alone = true;
  return traffic;
}

// How many samples may go together: those that divide() tries.
std::vector<int> sizes(int batch) {
  std::vector<int> all;
  for (int samples = 1; samples < batch; samples *= 2) all.push_back(samples);
  all.push_back(batch);
  return all;
}

// Floats that one sample has moved past the cache, each kind with a price of its own.
struct Moved {
  double activations = 0.0;  ///< of steps that do not fit
  double weights = 0.0;      ///< its share of the visits to them
  double handed_on = 0.0;    ///< from chunk to chunk, where those of a whole batch do not fit
};

Moved moved(const std::vector<StepTraffic>& steps, const Chunks& chunks, int batch,
            std::size_t cache) {
  Moved sum;
  for (const Chunk& chunk : chunks) {
    std::size_t weights = 0, largest = 0;
    for (int i = chunk.first; i < chunk.end; ++i) {
      const StepTraffic& it = steps[at(i)];
      const std::size_t held = it.activation_floats * at(chunk.samples) + it.scratch_floats;
      weights += it.weight_floats;
      largest = std::max(largest, held);
      if (held > cache) sum.activations += static_cast<double>(it.activation_floats);
    }
    const int sharing = weights + largest <= cache ? batch : chunk.samples;
    sum.weights += static_cast<double>(weights) / sharing;
    if (chunk.first == 0) continue;
    const std::size_t handed = steps[at(chunk.first - 1)].output_floats;
    if (handed * at(batch) > cache) sum.handed_on += static_cast<double>(handed);
  }
  return sum;
}

// Whether `a` costs less than `b`, whatever the prices are.
bool surely_less(const Moved& a, const Moved& b) {
  constexpr double kSlack = 1e-9;  // of sums in another order
  const auto no_more = [](double x, double y) { return x <= y + kSlack * y; };
  const auto less = [](double x, double y) { return x < y - kSlack * y; };
  return no_more(a.activations, b.activations) && no_more(a.weights, b.weights) &&
         no_more(a.handed_on, b.handed_on) &&
         (less(a.activations, b.activations) || less(a.weights, b.weights) ||
          less(a.handed_on, b.handed_on));
}

// Every division of the steps from `chunks`' end on.
template <class F>
void for_each_division(const std::vector<StepTraffic>& steps, int batch, Chunks& chunks,
                       const F& f) {
  const int first = chunks.empty() ? 0 : chunks.back().end;
  const int count = static_cast<int>(steps.size());
  if (first == count) {
    f(chunks);
    return;
  }
  for (int end = first + 1; end <= count; ++end) {
    const bool stands_alone = steps[at(end - 1)].alone;
    if (stands_alone && end > first + 1) break;
    for (const int samples : stands_alone ? std::vector<int>{batch} : sizes(batch)) {
      chunks.push_back({first, end, samples});
      for_each_division(steps, batch, chunks, f);
      chunks.pop_back();
    }
    if (stands_alone) break;
  }
}

// Sizes of all magnitudes up to somewhat more than the cache.
StepTraffic random_step(std::mt19937& random, std::size_t cache) {
  const auto floats = [&] {
    std::uniform_real_distribution<double> power(0.0, std::log(4.0 * static_cast<double>(cache)));
    return static_cast<std::size_t>(std::exp(power(random)));
  };
  StepTraffic it{.weight_floats = random() % 4 == 0 ? 0 : floats(),
                 .activation_floats = floats(),
                 .scratch_floats = random() % 2 == 0 ? 0 : floats()};
  it.output_floats = it.activation_floats / (1 + random() % 4);
  it.alone = random() % 8 == 0;
  return it;
}

}  // namespace

TEST_CASE("no steps, no chunks; a batch of one goes through all steps at once") {
  CHECK(divide({}, 32, 1000).empty());
  const std::vector<StepTraffic> steps = {step(10, 10), step(100'000, 50), step(10, 100'000)};
  CHECK(divide(steps, 1, 1000) == Chunks{{0, 3, 1}});
}

TEST_CASE("what fits the cache altogether is one chunk") {
  const std::vector<StepTraffic> steps = {step(50, 20, 10), step(100, 20, 10), step(80, 10, 5)};
  const Chunks chunks = divide(steps, 16, 1000);
  REQUIRE(chunks.size() == 1);
  CHECK(chunks[0].first == 0);
  CHECK(chunks[0].end == 3);
  // More would neither read the weights less often, nor leave room for them.
  CHECK(chunks[0].samples <= 16);
  CHECK(moved(steps, chunks, 16, 1000).weights == doctest::Approx(230.0 / 16));
}

TEST_CASE("few samples at once keep large activations and small weights in the cache") {
  // Two samples would not fit.
  CHECK(divide(std::vector{step(100, 600, 300)}, 32, 1000) == Chunks{{0, 1, 1}});
  // Scratch takes room too: eight samples would fit without it.
  StepTraffic with_scratch = step(600, 110);
  with_scratch.scratch_floats = 300;
  CHECK(divide(std::vector{with_scratch}, 32, 1000) == Chunks{{0, 1, 4}});
}

TEST_CASE("the whole batch shares a visit to weights that do not stay") {
  const std::vector<StepTraffic> steps = {step(100'000, 20, 10), step(200'000, 15, 5)};
  CHECK(divide(steps, 32, 1000) == Chunks{{0, 2, 32}});
  CHECK(divide(steps, 13, 1000) == Chunks{{0, 2, 13}});
}

TEST_CASE("as many samples share a visit as have room for their activations") {
  // Eight fit; sixteen would move 100 floats each to read 69 weights less.
  CHECK(divide(std::vector{step(1100, 100)}, 32, 1000) == Chunks{{0, 1, 8}});
}

TEST_CASE("layers of both kinds stand in chunks of their own, if little waits between them") {
  const std::vector<StepTraffic> narrow = {step(50, 800, 20), step(100'000, 20, 5)};
  CHECK(divide(narrow, 32, 1000) == Chunks{{0, 1, 1}, {1, 2, 32}});
  // 32 times 500 floats would have to wait outside the cache.
  const std::vector<StepTraffic> wide = {step(50, 800, 500), step(100'000, 500, 5)};
  CHECK(divide(wide, 32, 1000) == Chunks{{0, 2, 32}});
}

TEST_CASE("a step that stands alone takes the whole batch, whatever stands beside it") {
  const StepTraffic large = step(100, 600, 300);
  const StepTraffic vector = alone(step(10, 20, 10));
  CHECK(divide(std::vector{vector}, 32, 1000) == Chunks{{0, 1, 32}});
  CHECK(divide(std::vector{vector}, 1, 1000) == Chunks{{0, 1, 1}});
  CHECK(divide(std::vector{vector, vector, large, vector}, 32, 1000) ==
        Chunks{{0, 1, 32}, {1, 2, 32}, {2, 3, 1}, {3, 4, 32}});
}

TEST_CASE("weights that no cache holds are worth more sharing than others") {
  const StepTraffic few = step(2000, 100);
  CHECK(divide(std::vector{few}, 32, 1000) == Chunks{{0, 1, 8}});
  // 20 MB in all.
  const StepTraffic many = alone(step(5'000'000, 10));
  CHECK(divide(std::vector{few, many}, 32, 1000) == Chunks{{0, 1, 32}, {1, 2, 32}});
}

TEST_CASE("a division covers every step once, in order, with samples of the batch") {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    CAPTURE(round);
    const std::size_t cache = 10 + random() % 100'000;
    const int batch = 1 + static_cast<int>(random() % 70);
    std::vector<StepTraffic> steps(random() % 30);
    for (StepTraffic& it : steps) it = random_step(random, cache);
    const Chunks chunks = divide(steps, batch, cache);
    int next = 0;
    for (const Chunk& chunk : chunks) {
      REQUIRE(chunk.first == next);
      REQUIRE(chunk.end > chunk.first);
      REQUIRE(chunk.end <= static_cast<int>(steps.size()));
      CHECK(chunk.samples >= 1);
      CHECK(chunk.samples <= batch);
      for (int i = chunk.first; i < chunk.end; ++i) {
        if (!steps[at(i)].alone) continue;
        CHECK(chunk.end == chunk.first + 1);
        CHECK(chunk.samples == batch);
      }
      next = chunk.end;
    }
    CHECK(next == static_cast<int>(steps.size()));
    CHECK(divide(steps, batch, cache) == chunks);
  }
}

// The prices are the engine's own affair and change with every measurement, but they are positive:
// no division may move less of one kind and no more of the others than the one chosen.
TEST_CASE("no other division moves less, whatever the prices") {
  std::mt19937 random(2);
  for (int round = 0; round < 400; ++round) {
    CAPTURE(round);
    const std::size_t cache = 1000;
    const int batch = 1 + static_cast<int>(random() % 9);
    CAPTURE(batch);
    std::vector<StepTraffic> steps(1 + random() % 5);
    for (StepTraffic& it : steps) it = random_step(random, cache);
    const Chunks chosen = divide(steps, batch, cache);
    CAPTURE(chosen);
    const Moved least = moved(steps, chosen, batch, cache);
    Chunks chunks, better;
    for_each_division(steps, batch, chunks, [&](const Chunks& other) {
      if (surely_less(moved(steps, other, batch, cache), least)) better = other;
    });
    CHECK(better == Chunks{});
  }
}
