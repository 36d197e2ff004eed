// When a node is left alone, for how long, and who finds out that it is well again; and how many
// requests may be sent twice.
#include "net/breaker.h"

#include <doctest/doctest.h>

#include <vector>

#include "net/retry_budget.h"

namespace offramp::test {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;

struct Tried {
  std::mt19937_64 random{7};
  Breaker breaker{};
  Clock::time_point now{std::chrono::hours(1)};

  bool send() { return breaker.sent(); }
  void fail(bool probe) { breaker.failed(Reason::kLate, probe, now, random); }
  void break_it() {
    for (int i = 0; i < Breaker::kFailures; ++i) fail(send());
  }
  // How long it stays open.
  milliseconds pause() {
    milliseconds passed{0};
    while (breaker.state(now + passed) == BreakerState::kOpen) passed += milliseconds(1);
    return passed;
  }
};

}  // namespace

TEST_CASE("breaker: five failures in a row open it, and no fewer") {
  Tried tried;
  for (int i = 0; i < 4; ++i) tried.fail(tried.send());
  CHECK(tried.breaker.state(tried.now) == BreakerState::kClosed);
  static_cast<void>(tried.send());
  tried.breaker.succeeded();
  for (int i = 0; i < 4; ++i) tried.fail(tried.send());
  CHECK(tried.breaker.admits(tried.now));
  tried.fail(tried.send());
  CHECK(tried.breaker.state(tried.now) == BreakerState::kOpen);
  CHECK_FALSE(tried.breaker.admits(tried.now));
  CHECK(tried.breaker.why() == Reason::kLate);
}

TEST_CASE("breaker: half-open lets one request through, which decides") {
  Tried tried;
  tried.break_it();
  tried.now += tried.pause();
  CHECK(tried.breaker.state(tried.now) == BreakerState::kHalfOpen);
  REQUIRE(tried.breaker.admits(tried.now));
  const bool probe = tried.send();
  CHECK(probe);
  CHECK_FALSE(tried.breaker.admits(tried.now));
  SUBCASE("answered") {
    tried.breaker.succeeded();
    CHECK(tried.breaker.state(tried.now) == BreakerState::kClosed);
    CHECK_FALSE(tried.send());
  }
  SUBCASE("failed") {
    tried.fail(probe);
    CHECK(tried.breaker.state(tried.now) == BreakerState::kOpen);
  }
  SUBCASE("called back: the next one is the probe") {
    tried.breaker.undecided(probe);
    CHECK(tried.breaker.admits(tried.now));
    CHECK(tried.send());
  }
}

TEST_CASE("breaker: what was sent before it opened keeps it open no longer") {
  Tried tried;
  tried.break_it();
  const milliseconds pause = tried.pause();
  tried.now += pause / 2;
  tried.fail(false);
  CHECK(tried.pause() <= pause - pause / 2);
}

TEST_CASE("breaker: pauses double from one second to thirty, a quarter more or less") {
  Tried tried;
  tried.break_it();
  std::vector<double> seconds;
  for (int i = 0; i < 8; ++i) {
    const milliseconds pause = tried.pause();
    seconds.push_back(duration<double>(pause).count());
    tried.now += pause;
    tried.fail(tried.send());
  }
  const std::vector<double> middle = {1, 2, 4, 8, 16, 30, 30, 30};
  for (std::size_t i = 0; i < middle.size(); ++i) {
    CHECK(seconds[i] >= 0.75 * middle[i] - 0.002);
    CHECK(seconds[i] <= 1.25 * middle[i] + 0.002);
  }
  Tried same;
  same.break_it();
  CHECK(duration<double>(same.pause()).count() == seconds[0]);  // the same seed
  Tried other;
  other.random.seed(8);
  other.break_it();
  CHECK(duration<double>(other.pause()).count() != seconds[0]);
  tried.breaker.succeeded();
  tried.break_it();
  CHECK(duration<double>(tried.pause()).count() <= 1.25 + 0.002);
}

TEST_CASE("breaker: one trip is enough, and a greeting lets a probe through") {
  Tried tried;
  tried.breaker.trip(Reason::kPeerLost, tried.now, tried.random);
  CHECK_FALSE(tried.breaker.admits(tried.now));
  CHECK(tried.breaker.why() == Reason::kPeerLost);
  tried.breaker.greeted(tried.now);
  CHECK(tried.breaker.state(tried.now) == BreakerState::kHalfOpen);
  CHECK(tried.send());
  CHECK_FALSE(tried.breaker.admits(tried.now));
}

TEST_CASE("retry budget: ten at first, then one for ten successes") {
  RetryBudget budget;
  int taken = 0;
  while (budget.take()) ++taken;
  CHECK(taken == 10);
  for (int i = 0; i < 9; ++i) budget.succeeded();
  CHECK_FALSE(budget.take());
  budget.succeeded();
  CHECK(budget.take());
  CHECK_FALSE(budget.take());
  for (int i = 0; i < 1000; ++i) budget.succeeded();
  CHECK(budget.tokens() == doctest::Approx(10.0));
}

TEST_CASE("breaker: news of the node ends the pause, and makes no second probe") {
  Tried tried;
  tried.break_it();
  REQUIRE_FALSE(tried.breaker.admits(tried.now));
  tried.breaker.greeted(tried.now);
  REQUIRE(tried.breaker.admits(tried.now));
  CHECK(tried.send());
  tried.breaker.greeted(tried.now);
  CHECK_FALSE(tried.breaker.admits(tried.now));
}

}  // namespace offramp::test
