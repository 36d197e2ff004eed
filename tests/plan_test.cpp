// The compiled plan against its twin, the interpreter; memory; threads; the cascade.
#include "engine/plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "engine/cascade.h"
#include "engine/error.h"
#include "engine/interpreter.h"
#include "engine/passes.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"
#include "tests/test_allocations.h"
#include "tests/test_graphs.h"
#include "tests/test_twins.h"
#include "tests/test_wait.h"

using namespace offramp;
using test::all_options;
using test::beside;
using test::channels_last;
using test::check_close;
using test::error_bounds;
using test::error_growth;
using test::GraphBuilder;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// The choice may depend on the number of threads, and bits on the choice.
void add_paths(const Plan& plan, ConvPaths& paths) {
  for (const StepInfo& step : plan.steps()) {
    if (!step.algorithm.empty()) paths[step.layer] = step.path;
  }
}

ConvPaths paths_of(const std::vector<Stage>& stages) {
  ConvPaths paths;
  for (const Stage& stage : stages) add_paths(stage.plan(), paths);
  return paths;
}

}  // namespace

TEST_CASE("plans give the interpreter's values on random networks, with every table and BLAS") {
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    GraphBuilder b({3, 12, 11}, seed);
    test::build_random_network(b, 1 + static_cast<int>(seed % 3));
    validate(b.graph());
    const auto x = test::random_floats(b.random(), b.shape(0).elements());
    const Values wanted = interpret(b.graph(), x);
    const FusedGraph fused = fuse(b.graph());
    const std::vector<float> input = channels_last(b.shape(0), x);
    for (const Graph* graph : {&b.graph(), &fused.graph}) {
      const std::vector<Segment> segments = split_at_exits(*graph);
      for (const PlanOptions& options : all_options(1)) {
        const std::vector<float> bounds =
            error_bounds(b.graph(), wanted, error_growth(options.convolution));
        CAPTURE(graph == &fused.graph);
        CAPTURE(static_cast<int>(options.convolution));
        CAPTURE(std::string(options.kernels ? options.kernels->name : "blas"));
        std::vector<float> carry = input;
        for (const Segment& segment : segments) {
          const Plan plan = Plan::compile(*graph, segment, options);
          Workspace workspace = plan.make_workspace();
          const Plan::Outputs out = plan.run({carry.data(), 1, plan.input_shape()}, workspace);
          const ValueId logits = graph->exits[at(segment.exit)].logits;
          check_close({out.logits.data, out.logits.elements()}, wanted[at(logits)],
                      bounds[at(logits)]);
          if (segment.carry == kNoValue) continue;
          check_close({out.carry.data, out.carry.elements()},
                      channels_last(out.carry.shape, wanted[at(segment.carry)]),
                      bounds[at(segment.carry)]);
          const std::vector<float> next(out.carry.data, out.carry.data + out.carry.elements());
          carry = next;
        }
      }
    }
  }
}

TEST_CASE("a pool of more threads than the plan's is not used") {
  GraphBuilder b({16, 32, 32}, 1);
  b.exit(b.linear(b.append(Flatten{}, {b.conv(0, 16, 3, 1, 1)}), 10));
  const Plan plan =
      Plan::compile(b.graph(), split_at_exits(b.graph())[0], {.max_batch = 8, .threads = 2});
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * 8);
  const View view{pictures.data(), 8, b.shape(0)};
  Workspace workspace = plan.make_workspace(), own = plan.make_workspace();
  ThreadPool two(2), four(4);
  StepClock clock(static_cast<int>(plan.steps().size()), 2);
  const View wanted = plan.run(view, workspace, &two).logits;
  const View found = plan.run(view, own, &four, &clock).logits;
  CHECK(std::equal(found.data, found.data + found.elements(), wanted.data));
}

TEST_CASE("a sample's answer does not depend on its batch, its thread or the workspace's past") {
  GraphBuilder b({3, 12, 11}, 5);
  test::build_random_network(b, 3);
  const Model model = test::make_model(b.graph());
  const int count = 13;
  const std::size_t size = b.shape(0).elements();
  const auto pictures = test::random_floats(b.random(), size * at(count), -2.0f, 2.0f);
  for (PlanOptions options : all_options(count)) {
    const std::vector<Stage> stages = make_stages(model, std::vector<float>{0.9f}, options);
    std::vector<Decision> together(at(count)), alone(at(count));
    CascadeMemory memory = make_cascade_memory(stages);
    std::fill_n(memory.stages[0].workspace.data(), memory.stages[0].workspace.floats(), NAN);
    run_cascade(stages, {pictures.data(), count, b.shape(0)}, memory, together);
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.push_back(beside([&, t] {
        CascadeMemory own = make_cascade_memory(stages);
        for (int n = t; n < count; n += 3) {
          run_cascade(stages, {pictures.data() + at(n) * size, 1, b.shape(0)}, own,
                      {&alone[at(n)], 1});
        }
      }));
    }
    threads.clear();
    CHECK(together == alone);
    options.paths = paths_of(stages);
    for (int sharing : {2, 3}) {
      options.threads = sharing;
      const std::vector<Stage> shared = make_stages(model, std::vector<float>{0.9f}, options);
      CascadeMemory own = make_cascade_memory(shared);
      std::vector<Decision> by_threads(at(count));
      run_cascade(shared, {pictures.data(), count, b.shape(0)}, own, by_threads);
      CHECK(by_threads == alone);
    }
  }
}

TEST_CASE("the cascade gives each sample the first exit that is sure") {
  GraphBuilder b({3, 12, 11}, 8);
  test::build_random_network(b, 3);
  const Model model = test::make_model(b.graph());
  const int count = 40;
  const auto pictures =
      test::random_floats(b.random(), b.shape(0).elements() * at(count), -3.0f, 3.0f);
  const View view{pictures.data(), count, b.shape(0)};
  PlanOptions options;
  options.max_batch = count;

  // What every exit says, from a cascade that never answers early.
  std::vector<std::vector<Decision>> said(3, std::vector<Decision>(at(count)));
  const std::vector<Stage> all = make_stages(model, std::vector<float>{0.0f}, options);
  std::vector<StageMemory> memories;
  View input = view;
  for (const Stage& stage : all) {
    memories.push_back(stage.make_memory());
    const Stage::Outcome outcome = stage.step(input, memories.back());
    std::copy(outcome.decisions.begin(), outcome.decisions.end(), said[at(stage.exit())].begin());
    input = outcome.carry;
  }
  std::vector<int> taken(3, 0);
  // Thresholds that lie in the middle of each exit's entropies.
  std::vector<float> thresholds;
  for (int e = 0; e < 2; ++e) {
    std::vector<float> entropies;
    for (const Decision& d : said[at(e)]) entropies.push_back(d.entropy);
    std::nth_element(entropies.begin(), entropies.begin() + count / 2, entropies.end());
    thresholds.push_back(entropies[at(count / 2)]);
  }
  const std::vector<Stage> stages = make_stages(model, thresholds, options);
  CascadeMemory memory = make_cascade_memory(stages);
  std::vector<Decision> decisions(at(count));
  run_cascade(stages, view, memory, decisions);
  for (int n = 0; n < count; ++n) {
    int exit = 0;
    while (exit < 2 && !(said[at(exit)][at(n)].entropy < thresholds[at(exit)])) ++exit;
    CHECK(decisions[at(n)] == said[at(exit)][at(n)]);
    ++taken[at(exit)];
  }
  for (int e = 0; e < 3; ++e) CHECK(taken[at(e)] > 0);
}

TEST_CASE("threads that share a layer change nothing in it") {
  // Large enough that every layer is shared: convolutions by any path, and a linear layer.
  GraphBuilder b({3, 48, 40}, 11);
  ValueId x = b.relu(b.conv(0, 24, 3, 1, 1));
  x = b.relu(b.add(b.conv(x, 24, 3, 1, 1), x));
  x = b.relu(b.conv(x, 40, 5, 2, 2));
  x = b.conv(b.conv(x, 40, 3, 1, 1, 40), 64, 1);
  b.exit(b.linear(b.relu(b.linear(b.append(Flatten{}, {x}), 50)), 10));
  const FusedGraph fused = fuse(b.graph());
  const Segment segment = split_at_exits(fused.graph)[0];
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * 3);
  for (PlanOptions options : all_options(3)) {
    const Plan single = Plan::compile(fused.graph, segment, options);
    Workspace workspace = single.make_workspace();
    add_paths(single, options.paths);
    for (int threads : {2, 3}) {
      options.threads = threads;
      const Plan shared = Plan::compile(fused.graph, segment, options);
      Workspace own = shared.make_workspace();
      ThreadPool pool(threads);
      for (int batch : {1, 2, 3}) {
        CAPTURE(std::string(shared.kernels().name));
        CAPTURE(std::string(to_string(options.convolution)));
        CAPTURE(threads);
        CAPTURE(batch);
        const View view{pictures.data(), batch, b.shape(0)};
        const View wanted = single.run(view, workspace).logits;
        const View found = shared.run(view, own, &pool).logits;
        CHECK(std::equal(found.data, found.data + found.elements(), wanted.data));
      }
    }
  }
}

TEST_CASE("samples that share a visit to large weights get the answers that they get alone") {
  // Weights that no second-level cache holds, and few pixels.
  GraphBuilder b({256, 4, 3}, 13);
  const ValueId x = b.relu(b.conv(0, 512, 3, 1, 1));
  b.exit(b.linear(b.append(GlobalAveragePool{}, {x}), 10));
  const FusedGraph fused = fuse(b.graph());
  const Segment segment = split_at_exits(fused.graph)[0];
  constexpr int kBatch = 6;
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * kBatch);
  const View all{pictures.data(), kBatch, b.shape(0)};
  for (PlanOptions options : all_options(kBatch)) {
    for (int threads : {1, 3}) {
      if (threads > 1 && options.kernels != &best_kernels()) continue;
      CAPTURE(std::string(to_string(options.convolution)));
      CAPTURE(threads);
      options.threads = threads;
      const Plan plan = Plan::compile(fused.graph, segment, options);
      CHECK(plan.steps()[0].samples > 1);
      CAPTURE(std::string(plan.kernels().name));
      Workspace workspace = plan.make_workspace();
      ThreadPool pool(threads);
      std::vector<float> alone;
      for (int n = 0; n < kBatch; ++n) {
        const View logits = plan.run(all.slice(n, 1), workspace).logits;
        alone.insert(alone.end(), logits.data, logits.data + logits.elements());
      }
      for (int batch : {4, kBatch}) {
        CAPTURE(batch);
        const View logits = plan.run(all.slice(0, batch), workspace, &pool).logits;
        CHECK(std::equal(logits.data, logits.data + logits.elements(), alone.data()));
      }
    }
  }
}

TEST_CASE("running a cascade allocates nothing") {
  GraphBuilder b({3, 12, 11}, 3);
  test::build_random_network(b, 3);
  const Model model = test::make_model(b.graph());
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * 4);
  for (PlanOptions options : all_options(4)) {
    options.threads = 2;
    const std::vector<Stage> stages = make_stages(model, {}, options);
    CascadeMemory memory = make_cascade_memory(stages);
    std::vector<Decision> decisions(4);
    const View view{pictures.data(), 4, b.shape(0)};
    run_cascade(stages, view, memory, decisions);  // OpenBLAS sets itself up on its first call
    const std::uint64_t before = test::allocations();
    run_cascade(stages, view, memory, decisions);
    CHECK(test::allocations() == before);
  }
}

TEST_CASE("the counter of allocations counts") {
  const std::uint64_t before = test::allocations();
  const std::vector<int> one(1000);
  CHECK(one.size() == 1000);
  CHECK(test::allocations() == before + 1);
}

TEST_CASE("a clock adds up the times of all threads, step by step") {
  StepClock clock(3, 2);
  for (int step = 0; step < 3; ++step) CHECK(clock.nanoseconds(step) == 0.0);
  clock.add(0, 0, 5.0);
  clock.add(1, 0, 7.0);
  clock.add(1, 2, 3.0);
  clock.add(1, 2, 0.5);
  CHECK(clock.nanoseconds(0) == 12.0);
  CHECK(clock.nanoseconds(1) == 0.0);
  CHECK(clock.nanoseconds(2) == 3.5);
}

TEST_CASE("a run's clock has time for every step, together no more than the run took") {
  GraphBuilder b({3, 48, 40}, 12);
  ValueId x = b.relu(b.conv(0, 24, 3, 1, 1));
  x = b.append(MaxPool{{2, 2}, {2, 2}, {0, 0}, false}, {b.conv(x, 40, 3, 1, 1)});
  b.exit(b.linear(b.append(Flatten{}, {x}), 10));
  const Segment segment = split_at_exits(b.graph())[0];
  constexpr int kBatch = 8, kRuns = 20;
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * kBatch);
  for (int threads : {1, 2}) {
    const Plan plan = Plan::compile(b.graph(), segment, {.max_batch = kBatch, .threads = threads});
    Workspace workspace = plan.make_workspace();
    ThreadPool pool(threads);
    const int steps = static_cast<int>(plan.steps().size());
    for (int batch : {1, kBatch}) {
      CAPTURE(threads);
      CAPTURE(batch);
      const View view{pictures.data(), batch, b.shape(0)};
      const View without = plan.run(view, workspace, &pool).logits;
      const std::vector<float> wanted(without.data, without.data + without.elements());
      StepClock clock(steps, threads);
      double took = 0.0;
      std::vector<double> before(at(steps), 0.0);
      for (int run = 0; run < kRuns; ++run) {
        const auto start = std::chrono::steady_clock::now();
        const View logits = plan.run(view, workspace, &pool, &clock).logits;
        took += std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start)
                    .count();
        CHECK(std::equal(wanted.begin(), wanted.end(), logits.data));
        double sum = 0.0;
        for (int i = 0; i < steps; ++i) {
          CHECK(clock.nanoseconds(i) >= before[at(i)]);
          before[at(i)] = clock.nanoseconds(i);
          sum += clock.nanoseconds(i);
        }
        CHECK(sum <= took * (1.0 + 1e-9));
      }
      for (int i = 0; i < steps; ++i) CHECK(clock.nanoseconds(i) > 0.0);
    }
  }
}

TEST_CASE("compile refuses a batch whose elements no int counts") {
  GraphBuilder b({3, 48, 40}, 1);
  b.exit(b.linear(b.append(GlobalAveragePool{}, {b.conv(0, 64, 3, 1, 1)}), 4));
  PlanOptions options;
  options.max_batch = 1 << 20;
  const Segment segment = split_at_exits(b.graph())[0];
  CHECK_THROWS_WITH_AS(Plan::compile(b.graph(), segment, options),
                       doctest::Contains("wanted a batch of at most 17476"), Error);
}

TEST_CASE("make_stages refuses thresholds that make no sense") {
  GraphBuilder b({3, 12, 11}, 3);
  test::build_random_network(b, 3);
  const Model model = test::make_model(b.graph());
  const auto stages = [&](std::vector<float> t) { return make_stages(model, t, {}); };
  CHECK_NOTHROW(stages({0.0f, 1.0f}));
  CHECK_NOTHROW(stages({0.5f}));
  CHECK_THROWS_WITH_AS(stages({0.1f, 0.1f, 0.1f}), doctest::Contains("wanted 1 or 2"), Error);
  CHECK_THROWS_WITH_AS(stages({0.1f, NAN}), doctest::Contains("in [0, 1], found nan"), Error);
  CHECK_THROWS_WITH_AS(stages({-0.1f, 0.1f}), doctest::Contains("in [0, 1]"), Error);
  CHECK_THROWS_WITH_AS(stages({1.1f}), doctest::Contains("in [0, 1]"), Error);
}

TEST_CASE("a rule is not sure of a NaN, and a threshold of 0 is never sure") {
  CHECK_FALSE(ExitRule{1.0f}.sure(NAN));
  CHECK_FALSE(ExitRule{0.0f}.sure(0.0f));
  CHECK(ExitRule{0.1f}.sure(0.0f));
}

TEST_CASE("decide: the first of equal logits, and their entropy") {
  std::vector<float> p(4);
  const Decision even = decide(best_kernels(), std::vector<float>{2, 2, 2, 2}, 1, p);
  CHECK(even.label == 0);
  CHECK(even.probability == doctest::Approx(0.25));
  CHECK(even.entropy == doctest::Approx(1.0));
  CHECK(even.exit == 1);
  const Decision sure = decide(best_kernels(), std::vector<float>{0, 0, 200, 0}, 0, p);
  CHECK(sure.label == 2);
  CHECK(sure.entropy == 0.0f);
}
