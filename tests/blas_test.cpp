// OpenBLAS computes on the threads that call it: the engine's pool is the only one.
#include "kernels/blas.h"

#include <cblas.h>
#include <doctest/doctest.h>

#include <ctime>
#include <random>
#include <vector>

#include "engine/partition.h"
#include "engine/plan.h"
#include "engine/thread_pool.h"
#include "tests/test_graphs.h"
#include "tests/test_process.h"

using namespace offramp;

namespace {

// Before any test runs: whoever computes first is to put an end to these, on a machine of one core
// too.
const int kThreadsBefore = [] {
  openblas_set_num_threads(3);
  return openblas_get_num_threads();
}();

double cpu_seconds(clockid_t whose) {
  timespec time{};
  clock_gettime(whose, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

TEST_CASE("threads that share a batch each call an OpenBLAS of one thread") {
  if (kThreadsBefore == 1) MESSAGE("this OpenBLAS has no threads, nothing to see");
  test::GraphBuilder b({32, 16, 16}, 1);
  b.exit(b.linear(b.append(Flatten{}, {b.conv(0, 32, 3, 1, 1)}), 10));
  const Plan plan =
      Plan::compile(b.graph(), split_at_exits(b.graph())[0],
                    {.convolution = ConvAlgorithm::kIm2col, .max_batch = 4, .threads = 2});
  REQUIRE(plan.steps()[0].algorithm == "im2col");
  const auto pictures = test::random_floats(b.random(), b.shape(0).elements() * 4);
  Workspace workspace = plan.make_workspace();
  ThreadPool pool(2);
  plan.run({pictures.data(), 4, b.shape(0)}, workspace, &pool);
  CHECK(openblas_get_num_threads() == 1);
}

TEST_CASE("a large product takes the time of no thread but the caller's") {
  const ConvShape s{128, 32, 32, 128, 32, 32, 3, 3, 1, 1, 1, 1};
  std::mt19937 random(1);
  const auto x = test::random_floats(random, std::size_t{128} * 32 * 32);
  const auto matrix = test::random_floats(random, std::size_t{128} * 128 * 9);
  std::vector<float> scratch(blas::conv_scratch_floats(s)), y(x.size());
  blas::conv2d(s, x.data(), matrix.data(), {}, scratch.data(), y.data());
  testing::settle();
  const double own = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
  const double all = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  for (int i = 0; i < 10; ++i) {
    blas::conv2d(s, x.data(), matrix.data(), {}, scratch.data(), y.data());
  }
  const double by_us = cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - own;
  const double by_all = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - all;
  // Processor time, not the clock on the wall: helpers would have done about two thirds.
  CHECK(by_all - by_us < 0.2 * by_us);
}
