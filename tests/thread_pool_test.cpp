#include "engine/thread_pool.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/test_allocations.h"
#include "tests/test_process.h"

using offramp::ThreadPool;

TEST_CASE("every task runs once, on a thread of the pool, for any number of tasks") {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int round = 0; round < 300; ++round) {
      const int tasks = round % 8;
      std::array<std::atomic<int>, 8> calls{};
      std::atomic<int> strangers{0};
      pool.run(tasks, [&](int task, int thread) {
        if (thread < 0 || thread >= threads) ++strangers;
        ++calls[static_cast<std::size_t>(task)];
      });
      CHECK(strangers == 0);
      for (int task = 0; task < 8; ++task) {
        CHECK(calls[static_cast<std::size_t>(task)] == (task < tasks ? 1 : 0));
      }
    }
  }
}

TEST_CASE("no two tasks run on one thread at the same time") {
  ThreadPool pool(3);
  std::array<std::atomic<int>, 3> busy{};
  std::atomic<int> clashes{0};
  for (int round = 0; round < 500; ++round) {
    pool.run(7, [&](int, int thread) {
      if (busy[static_cast<std::size_t>(thread)].exchange(1) != 0) ++clashes;
      busy[static_cast<std::size_t>(thread)] = 0;
    });
  }
  CHECK(clashes == 0);
}

TEST_CASE("what one job writes, the next one reads on another thread") {
  ThreadPool pool(3);
  std::vector<int> values(3, 0);
  std::atomic<int> stale{0};
  for (int round = 0; round < 2000; ++round) {
    pool.run(3, [&](int task, int) { values[static_cast<std::size_t>(task)] = round; });
    pool.run(3, [&](int task, int) {
      if (values[static_cast<std::size_t>((task + 1) % 3)] != round) ++stale;
    });
  }
  CHECK(stale == 0);
}

TEST_CASE("a worker that does not come leaves its tasks to the owner") {
  ThreadPool pool(2);
  std::atomic<bool> held{false}, release{false};
  std::atomic<int> done{0};
  // The worker is kept busy by one task, while the owner does all the others.
  pool.run(100, [&](int, int thread) {
    if (thread == 1 && !held.exchange(true)) {
      while (!release) std::this_thread::yield();
    }
    if (++done == 99) release = true;
  });
  CHECK(done == 100);
}

TEST_CASE("a job allocates nothing") {
  ThreadPool pool(2);
  int sum = 0;
  pool.run(2, [](int, int) {});
  const auto before = offramp::test::allocations();
  pool.run(2, [&](int task, int) {
    if (task == 0) sum += 1;
  });
  CHECK(offramp::test::allocations() == before);
  CHECK(sum == 1);
}

TEST_CASE("an idle pool uses no CPU") {
  ThreadPool pool(4);
  for (int job = 0; job < 2000; ++job) pool.run(4, [](int, int) {});
  offramp::testing::settle();
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  // Three spinning threads would use up to 900 ms, on one core 300.
  CHECK(std::clock() - before < CLOCKS_PER_SEC * 3 / 100);
}
