#include "net/sessions.h"

#include <doctest/doctest.h>

#include <string>

namespace offramp::test {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

Peer peer(int number) { return {.cable = number, .routing_id = {}}; }

}  // namespace

TEST_CASE("sessions: a peer is known from HELLO to BYE") {
  const Clock::time_point now{};
  Sessions sessions;
  CHECK_FALSE(sessions.heard(peer(1), now));
  CHECK(sessions.empty());
  sessions.open(peer(1), now);
  CHECK(sessions.heard(peer(1), now));
  CHECK_FALSE(sessions.heard(peer(2), now));
  CHECK(sessions.peers() == std::vector<Peer>{peer(1)});
  sessions.close(peer(1));
  CHECK_FALSE(sessions.heard(peer(1), now));
}

TEST_CASE("sessions: who comes with another key is another peer, whatever its routing id") {
  const Clock::time_point now{};
  Sessions sessions;
  const Peer first{.cable = -1, .routing_id = "id", .key = "one"};
  const Peer second{.cable = -1, .routing_id = "id", .key = "two"};
  sessions.open(first, now);
  CHECK_FALSE(sessions.heard(second, now));
  sessions.close(second);
  CHECK(sessions.heard(first, now));
}

TEST_CASE("sessions: five minutes of silence end one, a word keeps it") {
  Clock::time_point now{};
  Sessions sessions;
  sessions.open(peer(1), now);
  sessions.open(peer(2), now);
  sessions.expire(now);
  now += minutes(4);
  sessions.expire(now);
  CHECK(sessions.heard(peer(2), now));
  now += minutes(1) + seconds(1);
  sessions.expire(now);
  CHECK(sessions.peers() == std::vector<Peer>{peer(2)});
}

TEST_CASE("sessions: their number is bounded, and who has one keeps it") {
  Sessions sessions;
  int count = 0;
  for (; sessions.has_room_for(peer(count)) && count < 1'000'000; ++count)
    sessions.open(peer(count), {});
  CHECK(count == 10'000);
  CHECK(sessions.has_room_for(peer(5)));
  sessions.close(peer(7));
  CHECK(sessions.has_room_for(peer(count)));
}

TEST_CASE("sessions: one key has 64 at most, and its longest silent makes room for a new one") {
  Clock::time_point now{};
  Sessions sessions;
  const auto link = [](int number) {
    return Peer{.cable = -1, .routing_id = std::to_string(number), .key = "one"};
  };
  const Peer other{.cable = -1, .routing_id = "0", .key = "another"};
  sessions.open(other, now);
  for (int i = 0; i < 64; ++i) sessions.open(link(i), now + seconds(i));
  now += seconds(100);
  CHECK(sessions.peers().size() == 65);
  CHECK(sessions.heard(link(0), now));
  sessions.open(link(5), now);  // said HELLO again
  CHECK(sessions.peers().size() == 65);
  sessions.open(link(64), now);
  CHECK(sessions.peers().size() == 65);
  CHECK_FALSE(sessions.heard(link(1), now));
  for (const int kept : {0, 2, 5, 63, 64}) CHECK(sessions.heard(link(kept), now));
  for (int i = 100; i < 20'000; ++i) sessions.open(link(i), now + seconds(i));
  CHECK(sessions.peers().size() == 65);
  CHECK(sessions.heard(other, now));
  sessions.close(link(19'999));
  CHECK(sessions.peers().size() == 64);
}

TEST_CASE("sessions: when there is no room, a key that has all of its own may still change them") {
  Sessions sessions;
  const auto link = [](int number) {
    return Peer{.cable = -1, .routing_id = std::to_string(number), .key = "one"};
  };
  for (int i = 0; i < 64; ++i) sessions.open(link(i), {});
  for (int i = 0; i < 10'000 - 64; ++i) sessions.open(peer(i), {});
  CHECK_FALSE(sessions.has_room_for(peer(10'000)));
  CHECK_FALSE(sessions.has_room_for({.cable = -1, .routing_id = "0", .key = "another"}));
  CHECK(sessions.has_room_for(link(64)));
  sessions.open(link(64), {});
  CHECK(sessions.peers().size() == 10'000);
}

}  // namespace offramp::test
