#include "engine/thread_pool.h"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/test_allocations.h"

using offramp::ThreadPool;

TEST_CASE("every part runs once, for every number of parts") {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int round = 0; round < 300; ++round) {
      const int parts = 1 + round % threads;
      std::array<int, 5> calls{};
      pool.run(parts, [&](int part, int count) {
        CHECK(count == parts);
        ++calls[static_cast<std::size_t>(part)];
      });
      for (int part = 0; part < 5; ++part) {
        CHECK(calls[static_cast<std::size_t>(part)] == (part < parts ? 1 : 0));
      }
    }
  }
}

TEST_CASE("what one job writes, the next one reads on another thread") {
  ThreadPool pool(3);
  std::vector<int> values(3, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.run(3, [&](int part, int) { values[static_cast<std::size_t>(part)] = round; });
    pool.run(3, [&](int part, int) {
      if (values[static_cast<std::size_t>((part + 1) % 3)] != round) FAIL("a stale value");
    });
  }
}

TEST_CASE("a job allocates nothing") {
  ThreadPool pool(2);
  int sum = 0;
  pool.run(2, [](int, int) {});
  const auto before = offramp::test::allocations();
  pool.run(2, [&](int part, int) {
    if (part == 0) sum += 1;
  });
  CHECK(offramp::test::allocations() == before);
  CHECK(sum == 1);
}

TEST_CASE("an idle pool uses no CPU") {
  ThreadPool pool(4);
  pool.run(4, [](int, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // they are asleep by now
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  // Three spinning threads would use up to 900 ms, on two cores 600.
  CHECK(std::clock() - before < CLOCKS_PER_SEC / 10);
}
