// Threads of tests: waited for, held up, and ended with the test.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <stop_token>
#include <thread>
#include <type_traits>
#include <utility>

namespace offramp::testing {

/// True once `condition` holds, false when `patience` is over.
template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds patience = std::chrono::seconds(20),
                std::chrono::milliseconds interval = std::chrono::milliseconds(1)) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(interval);
  }
  return true;
}

/// A thread beside the test's, asked to stop and joined at the end of its scope. What it throws, a
/// REQUIRE included, fails the test and ends the thread alone.
template <class Work>
std::jthread beside(Work work) {
  return std::jthread([work = std::move(work)](const std::stop_token& stop) mutable {
    try {
      if constexpr (std::is_invocable_v<Work&, std::stop_token>)
        work(stop);
      else
        work();
    } catch (const std::exception& error) {
      FAIL_CHECK(error.what());
    } catch (...) {  // a REQUIRE, which has been counted
    }
  });
}

/// What workers do with their requests until they are let go: a minute at most, so that a test that
/// has failed ends.
struct HeldWork {
  std::atomic<bool> hold{true}, taken{false};

  void wait() {
    taken = true;
    static_cast<void>(eventually([this] { return !hold; }, std::chrono::seconds(60)));
  }
};

}  // namespace offramp::testing

namespace offramp::test {
using testing::beside;
using testing::eventually;
using testing::HeldWork;
}  // namespace offramp::test
