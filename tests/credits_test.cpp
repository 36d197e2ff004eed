#include "net/credits.h"

#include <doctest/doctest.h>

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Peer peer(int number) { return {.cable = number, .routing_id = {}}; }

// A node with room for 100 requests and a window of 40, and its sessions.
struct Crowd {
  Crowd() : credits(40, 100) {}

  Session& join(int number, std::uint8_t minor = kMinorOfCredit) {
    Session& session = sessions.open(peer(number), now);
    session.minor = minor;
    credits.welcome(session);
    return session;
  }
  // Those from `first` on send a request.
  void use(int first, int count) {
    for (int i = first; i < first + count; ++i) credits.used(*sessions.heard(peer(i), now), now);
  }
  // The changes of the next review.
  std::vector<Credits::Change> review() {
    now += milliseconds(100);
    std::vector<Credits::Change> changes;
    credits.review(sessions, now, changes);
    return changes;
  }

  Clock::time_point now{std::chrono::hours(1)};
  Sessions sessions;
  Credits credits;
};

}  // namespace

TEST_CASE("credits: few get a whole window, many a fair share, and nobody none") {
  Crowd crowd;
  for (int i = 0; i < 500; ++i) CHECK(crowd.join(i).window == 40);
  crowd.use(0, 2);
  CHECK(crowd.review().empty());
  crowd.use(0, 5);
  std::vector<Credits::Change> changes = crowd.review();
  REQUIRE(changes.size() == 500);
  for (const Credits::Change& change : changes) CHECK(change.window == 20);
  CHECK(crowd.join(500).window == 20);
  crowd.now += seconds(1);
  crowd.use(0, 500);
  changes = crowd.review();
  REQUIRE_FALSE(changes.empty());
  CHECK(changes[0].window == 1);
}

TEST_CASE("credits: a share that changes little is not told") {
  Crowd crowd;
  for (int i = 0; i < 10; ++i) crowd.join(i);
  crowd.use(0, 5);
  CHECK(crowd.review().size() == 10);  // 20
  crowd.now += seconds(1);
  for (const int active : {6, 9, 7, 5}) {
    crowd.use(0, active);
    CHECK(crowd.review().empty());
  }
  crowd.use(0, 10);
  CHECK(crowd.review().size() == 10);  // 10
}

TEST_CASE("credits: one session is not told twice in a second") {
  Crowd crowd;
  for (int i = 0; i < 20; ++i) crowd.join(i);
  crowd.use(0, 5);
  CHECK(crowd.review().size() == 20);
  crowd.use(0, 20);
  CHECK(crowd.review().empty());
  crowd.now += seconds(1);
  CHECK(crowd.review().size() == 20);
}

TEST_CASE("credits: when it is quiet again, each has a whole window, and that is the end of it") {
  Crowd crowd;
  for (int i = 0; i < 10; ++i) crowd.join(i);
  crowd.use(0, 10);
  CHECK(crowd.review().size() == 10);
  crowd.now += seconds(3);
  const std::vector<Credits::Change> changes = crowd.review();
  REQUIRE(changes.size() == 10);
  CHECK(changes[0].window == 40);
  CHECK(crowd.review().empty());
  CHECK(crowd.join(11).window == 40);
}

TEST_CASE("credits: what was sent before a CREDIT came is within the window before") {
  Crowd crowd;
  Session& session = crowd.join(0);
  for (int i = 1; i < 10; ++i) crowd.join(i);
  CHECK(crowd.credits.allows(session, 39, crowd.now));
  CHECK_FALSE(crowd.credits.allows(session, 40, crowd.now));
  crowd.use(0, 10);
  REQUIRE(crowd.review().size() == 10);
  CHECK(session.window == 10);
  CHECK(crowd.credits.allows(session, 39, crowd.now));
  CHECK_FALSE(crowd.credits.allows(session, 40, crowd.now));
  crowd.now += seconds(1);
  CHECK(crowd.credits.allows(session, 9, crowd.now));
  CHECK_FALSE(crowd.credits.allows(session, 10, crowd.now));
}

TEST_CASE("credits: a peer of version 1.1 keeps the window that WELCOME has told it") {
  Crowd crowd;
  Session& old = crowd.join(0, 1);
  for (int i = 1; i < 10; ++i) crowd.join(i);
  crowd.use(0, 10);
  for (const Credits::Change& change : crowd.review()) CHECK(change.peer != peer(0));
  CHECK(old.window == 40);
  crowd.now += seconds(5);
  CHECK(crowd.credits.allows(old, 39, crowd.now));
  CHECK(crowd.join(20, 1).window == 40);
}

}  // namespace offramp::test
