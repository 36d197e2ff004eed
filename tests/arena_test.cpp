// The memory of a run: how much it is, that a run uses it, and that it writes nothing behind it.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/passes.h"
#include "engine/plan.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"
#include "tests/test_graphs.h"
#include "tests/test_twins.h"

using namespace offramp;
using test::GraphBuilder;

namespace {

constexpr std::size_t kLine = Buffer::kAlignment / sizeof(float);

// A NaN that no computation makes.
constexpr std::uint32_t kUntouched = 0x7fc0dead;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

std::size_t whole_lines(std::size_t floats) { return (floats + kLine - 1) / kLine * kLine; }

bool same(const View& a, const View& b) {
  return a.elements() == b.elements() &&
         (a.elements() == 0 || std::memcmp(a.data, b.data, a.elements() * sizeof(float)) == 0);
}

// The arena of a plan, with a guard behind it.
class Marked {
 public:
  explicit Marked(const Plan& plan)
      : workspace(plan.arena_floats() + kGuard), arena_(plan.arena_floats()) {
    std::fill_n(workspace.data(), workspace.floats(), std::bit_cast<float>(kUntouched));
  }

  bool touched(std::size_t i) {
    return std::bit_cast<std::uint32_t>(workspace.data()[i]) != kUntouched;
  }
  /// One behind the last float that was written.
  std::size_t end() {
    std::size_t i = workspace.floats();
    while (i > 0 && !touched(i - 1)) --i;
    return i;
  }
  bool whole_guard() { return end() <= arena_; }
  /// Lines of the arena of which nothing was written.
  std::size_t untouched_lines() {
    std::size_t count = 0;
    for (std::size_t line = 0; line < arena_; line += kLine) {
      bool any = false;
      for (std::size_t i = line; i < line + kLine; ++i) any = any || touched(i);
      if (!any) ++count;
    }
    return count;
  }

  Workspace workspace;

 private:
  static constexpr std::size_t kGuard = 256 * kLine;
  std::size_t arena_;
};

// Without scratch, so that its arena can be told by hand: two tensors of 2048 floats at a time, and
// 5 logits that wait for the rest of the batch.
constexpr std::size_t kTensor = 8 * 16 * 16;
constexpr int kClasses = 5;
void build_plain_network(GraphBuilder& b) {
  ValueId x = b.conv(b.relu(0), 8, 3, 1, 1, 8);
  x = b.append(GlobalAveragePool{}, {b.append(MaxPool{{2, 2}, {2, 2}, {0, 0}, false}, {x})});
  b.exit(b.linear(x, kClasses));
}

}  // namespace

TEST_CASE("an arena has room for what lives at the same time, and for no more") {
  GraphBuilder b({8, 16, 16}, 1);
  build_plain_network(b);
  const Segment segment = split_at_exits(b.graph())[0];
  const auto pictures = test::random_floats(b.random(), kTensor * 32);
  for (int batch : {1, 32}) {
    for (int threads : {1, 2}) {
      CAPTURE(batch);
      CAPTURE(threads);
      const Plan plan = Plan::compile(b.graph(), segment, {.max_batch = batch, .threads = threads});
      CHECK(plan.make_workspace().floats() == plan.arena_floats());
      // A thread's memory holds as many samples as it takes through a step; or the whole of a batch
      // in which there are fewer than threads.
      int samples = std::min(batch, threads - 1);
      for (const StepInfo& step : plan.steps()) samples = std::max(samples, step.samples);
      CHECK(plan.arena_floats() ==
            whole_lines(at(kClasses * batch)) + at(threads) * 2 * kTensor * at(samples));

      Marked marked(plan);
      ThreadPool pool(threads);
      const auto run = [&] {
        plan.run({pictures.data(), batch, b.shape(0)}, marked.workspace, &pool);
      };
      run();
      CHECK(marked.whole_guard());
      if (threads > batch) continue;  // one thread's memory is enough then
      // A worker need not come; sooner or later it does.
      const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(30);
      while (marked.untouched_lines() > 0 && std::chrono::steady_clock::now() < patience) run();
      CHECK(marked.untouched_lines() == 0);
      CHECK(marked.end() > plan.arena_floats() - kLine);
      CHECK(marked.whole_guard());
    }
  }
}

TEST_CASE("a run writes nothing behind its arena, and reads nothing that it has not written") {
  for (std::uint32_t seed = 0; seed < 25; ++seed) {
    CAPTURE(seed);
    // Some are large enough for threads to share their layers.
    GraphBuilder b(seed < 22 ? Shape{3, 12, 11} : Shape{16, 40, 36}, seed);
    test::build_random_network(b, 1 + static_cast<int>(seed % 2));
    const FusedGraph fused = fuse(b.graph());
    const Segment segment = split_at_exits(fused.graph)[0];
    const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * 32);
    for (int most : {1, 32}) {
      for (PlanOptions options : test::all_options(most)) {
        for (int threads : {1, 2}) {
          options.threads = threads;
          const Plan plan = Plan::compile(fused.graph, segment, options);
          ThreadPool pool(threads);
          for (int batch : {1, 3, most}) {
            if (batch > most) continue;
            CAPTURE(std::string(plan.kernels().name));
            CAPTURE(std::string(to_string(options.convolution)));
            CAPTURE(most);
            CAPTURE(threads);
            CAPTURE(batch);
            const View view{pictures.data(), batch, b.shape(0)};
            Marked marked(plan);
            const Plan::Outputs found = plan.run(view, marked.workspace, &pool);
            CHECK(marked.whole_guard());
            Workspace zeros = plan.make_workspace();
            std::fill_n(zeros.data(), zeros.floats(), 0.0f);
            const Plan::Outputs wanted = plan.run(view, zeros, &pool);
            CHECK(same(found.logits, wanted.logits));
            CHECK(same(found.carry, wanted.carry));
          }
        }
      }
    }
  }
}

TEST_CASE("a thread's work stays in its own memory") {
  for (std::uint32_t seed = 0; seed < 25; ++seed) {
    CAPTURE(seed);
    GraphBuilder b({3, 12, 11}, seed);
    test::build_random_network(b, 1);
    const FusedGraph fused = fuse(b.graph());
    const Segment segment = split_at_exits(fused.graph)[0];
    const auto picture = test::random_floats(b.random(), b.shape(0).elements());
    for (PlanOptions options : test::all_options(1)) {
      CAPTURE(std::string(to_string(options.convolution)));
      options.threads = 2;
      const Plan plan = Plan::compile(fused.graph, segment, options);
      options.threads = 3;
      const std::size_t own =
          Plan::compile(fused.graph, segment, options).arena_floats() - plan.arena_floats();
      Marked marked(plan);
      plan.run({picture.data(), 1, b.shape(0)}, marked.workspace);
      CHECK(marked.end() <= plan.arena_floats() - own);
    }
  }
}
