#include "net/strikes.h"

#include <doctest/doctest.h>

#include <string>

namespace offramp::test {

using std::chrono::seconds;

TEST_CASE("strikes: the third one within a minute of the one before is the last") {
  Clock::time_point now{std::chrono::hours(1)};
  Strikes strikes;
  CHECK_FALSE(strikes.out("a", now));
  CHECK_FALSE(strikes.strike("a", now));
  now += seconds(59);
  CHECK_FALSE(strikes.strike("a", now));
  CHECK_FALSE(strikes.strike("b", now));
  CHECK_FALSE(strikes.out("a", now));
  now += seconds(59);
  CHECK(strikes.strike("a", now));
  CHECK(strikes.out("a", now));
  CHECK_FALSE(strikes.out("b", now));
  now += seconds(60);
  CHECK_FALSE(strikes.out("a", now));
  CHECK_FALSE(strikes.strike("a", now));
  CHECK_FALSE(strikes.out("a", now));
}

TEST_CASE("strikes: of very many connections the oldest are forgiven") {
  Clock::time_point now{std::chrono::hours(1)};
  Strikes strikes;
  for (const int round : {1, 2, 3}) CHECK(strikes.strike("first", now) == (round == 3));
  CHECK(strikes.out("first", now));
  for (int i = 0; i < 4096; ++i) {
    now += std::chrono::milliseconds(1);
    CHECK_FALSE(strikes.strike(std::to_string(i), now));
  }
  CHECK_FALSE(strikes.out("first", now));
  CHECK_FALSE(strikes.strike("4095", now));
  CHECK(strikes.strike("4095", now));
}

}  // namespace offramp::test
