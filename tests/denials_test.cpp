// What a node says of those whom it does not let in.
#include "net/denials.h"

#include <doctest/doctest.h>

#include <chrono>

#include "tests/test_nodes.h"

namespace offramp::test {

TEST_CASE("denials: told five times, then seldom, with the number of those left out") {
  Ear ear;
  DenialLog log(ear.log());
  Clock::time_point now{std::chrono::hours(1)};
  for (int i = 0; i < 1000; ++i) log.note(Denial::kUnknownKey, "unknown", now);
  CHECK(ear.count("unknown") == 5);
  log.note(Denial::kRole, "role", now);
  CHECK(ear.count("role") == 1);
  now += std::chrono::seconds(11);
  for (int i = 0; i < 10; ++i) log.note(Denial::kUnknownKey, "unknown", now);
  CHECK(ear.count("unknown") == 6);
  CHECK(ear.heard("unknown (and 995 more like it)"));
  now += std::chrono::hours(1);
  for (int i = 0; i < 10; ++i) log.note(Denial::kUnknownKey, "unknown", now);
  CHECK(ear.count("unknown") == 11);
  CHECK(ear.heard("unknown (and 9 more like it)"));
}

}  // namespace offramp::test
