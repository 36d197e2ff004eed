#include "net/fair_queue.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>

#include "net/pace.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;

const Clock::time_point kNow{std::chrono::hours(1)};
constexpr Clock::duration kUnknown{};

Peer peer(const std::string& key, const std::string& routing_id = "1") {
  return {.cable = -1, .routing_id = routing_id, .key = key};
}

Job job(const Peer& from, std::uint64_t number, milliseconds budget = milliseconds(1000)) {
  return {.peer = from,
          .request = make_request_id(1, number),
          .arrived = kNow,
          .answer_by = kNow + budget,
          .input = Buffer()};
}

void fill(FairQueue& queue, const Peer& from, int count, std::uint64_t first = 0) {
  for (int i = 0; i < count; ++i)
    REQUIRE_FALSE(queue.push(job(from, first + static_cast<std::uint64_t>(i))));
}

// "a0 b7": whose requests, and which.
std::string names(const std::vector<Job>& jobs) {
  std::string text;
  for (const Job& each : jobs)
    text += (text.empty() ? "" : " ") + each.peer.key + std::to_string(each.request[8]);
  return text;
}

}  // namespace

TEST_CASE("fair queue: the devices take turns, and earlier deadlines go first within each") {
  FairQueue queue(10);
  for (int i = 0; i < 4; ++i)
    REQUIRE_FALSE(queue.push(job(peer("a"), static_cast<std::uint64_t>(i), milliseconds(90 - i))));
  REQUIRE_FALSE(queue.push(job(peer("b"), 7, milliseconds(500))));
  REQUIRE_FALSE(queue.push(job(peer("c"), 8, milliseconds(20))));
  REQUIRE_FALSE(queue.push(job(peer("c"), 9, milliseconds(20))));
  CHECK(names(queue.take(4, kNow, kUnknown).jobs) == "a3 b7 c8 a2");
  REQUIRE_FALSE(queue.push(job(peer("b"), 6)));
  CHECK(names(queue.take(10, kNow, kUnknown).jobs) == "c9 a1 b6 a0");
  CHECK(queue.size() == 0);
  CHECK(queue.take(10, kNow, kUnknown).jobs.empty());
}

TEST_CASE("fair queue: all connections of a key have one turn, without keys each has its own") {
  FairQueue queue(10);
  fill(queue, peer("a", "1"), 2);
  fill(queue, peer("a", "2"), 2, 2);
  fill(queue, peer("b"), 1, 9);
  CHECK(names(queue.take(3, kNow, kUnknown).jobs) == "a0 b9 a1");
  FairQueue open(10);
  fill(open, peer("", "1"), 2);
  fill(open, peer("", "2"), 2, 2);
  CHECK(names(open.take(4, kNow, kUnknown).jobs) == "0 2 1 3");
}

TEST_CASE("fair queue: when it is full, who has most of it gives way, latest deadline first") {
  FairQueue queue(4);
  fill(queue, peer("a"), 3);
  REQUIRE_FALSE(queue.push(job(peer("a"), 3, milliseconds(2000))));
  CHECK(queue.full());
  CHECK(queue.refuses(peer("a")));
  std::optional<Job> gone = queue.push(job(peer("a"), 4));
  REQUIRE(gone);
  CHECK(gone->request == make_request_id(1, 4));
  CHECK_FALSE(queue.refuses(peer("b")));
  gone = queue.push(job(peer("b"), 7));
  REQUIRE(gone);
  CHECK(gone->request == make_request_id(1, 3));
  gone = queue.push(job(peer("b"), 8));
  REQUIRE(gone);
  CHECK(gone->request == make_request_id(1, 2));
  // Two each: to take another one would only move the trouble.
  CHECK(queue.refuses(peer("b")));
  CHECK_FALSE(queue.refuses(peer("c")));
  CHECK(queue.size() == 4);
}

TEST_CASE("fair queue: with one greedy device among many, each gets its share of what is served") {
  constexpr int kModest = 20;
  FairQueue queue(64);
  std::mt19937 random(1);
  std::vector<int> asked(kModest + 1), served(kModest + 1);
  std::uint64_t number = 0;
  // 21 requests are served in a turn. The modest ask for one each, the greedy one for 200.
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<int> arrivals(200, 0);
    for (int device = 1; device <= kModest; ++device) arrivals.push_back(device);
    std::ranges::shuffle(arrivals, random);
    for (const int device : arrivals) {
      ++asked[static_cast<std::size_t>(device)];
      static_cast<void>(queue.push(job(peer("d" + std::to_string(device)), number++)));
    }
    for (const Job& each : queue.take(kModest + 1, kNow, kUnknown).jobs)
      ++served[static_cast<std::size_t>(std::stoi(each.peer.key.substr(1)))];
  }
  for (std::size_t device = 1; device < served.size(); ++device) {
    CAPTURE(device);
    CHECK(served[device] >= asked[device] * 9 / 10);
  }
  CHECK(served[0] >= 190);
}

TEST_CASE("fair queue: what expires is dropped, and takes nobody's place") {
  FairQueue queue(3);
  REQUIRE_FALSE(queue.push(job(peer("a"), 0, milliseconds(10))));
  REQUIRE_FALSE(queue.push(job(peer("a"), 1, milliseconds(500))));
  REQUIRE_FALSE(queue.push(job(peer("b"), 2, milliseconds(20))));
  std::vector<Job> expired;
  queue.drop_expired(kNow + milliseconds(9), expired);
  CHECK(expired.empty());
  queue.drop_expired(kNow + milliseconds(20), expired);
  CHECK(names(expired) == "a0 b2");
  CHECK(queue.size() == 1);
  fill(queue, peer("b"), 2, 5);
  const FairQueue::Batch batch = queue.take(5, kNow + milliseconds(600), kUnknown);
  CHECK(names(batch.jobs) == "b5 b6");
  CHECK(names(batch.stale) == "a1");
}

TEST_CASE("fair queue: what cannot be in time gives way to what can, and a batch waits for none") {
  constexpr milliseconds kService{10};
  FairQueue queue(10);
  REQUIRE_FALSE(queue.push(job(peer("a"), 0, milliseconds(9))));
  REQUIRE_FALSE(queue.push(job(peer("a"), 1, milliseconds(25))));
  fill(queue, peer("b"), 3, 2);
  FairQueue::Batch batch = queue.take(8, kNow, kService);
  CHECK(names(batch.stale) == "a0");
  // A third one would make the first one late.
  CHECK(names(batch.jobs) == "a1 b2");
  CHECK(names(queue.take(8, kNow, kService).jobs) == "b3 b4");

  // When the service time is wrong, something has to be computed to learn the right one.
  REQUIRE_FALSE(queue.push(job(peer("a"), 5, milliseconds(3))));
  REQUIRE_FALSE(queue.push(job(peer("b"), 6, milliseconds(5))));
  batch = queue.take(8, kNow, kService);
  CHECK(names(batch.jobs) == "b6");
  CHECK(names(batch.stale) == "a5");
  // But never what has expired.
  REQUIRE_FALSE(queue.push(job(peer("a"), 7, milliseconds(3))));
  batch = queue.take(8, kNow + milliseconds(3), kService);
  CHECK(batch.jobs.empty());
  CHECK(names(batch.stale) == "a7");
}

TEST_CASE("fair queue: a batch is due when it is full, old enough, or could not be later") {
  constexpr milliseconds kDelay{2}, kService{1};
  FairQueue queue(10);
  fill(queue, peer("a"), 2);
  CHECK(queue.ripe(4, kDelay, kService) == kNow + kDelay);
  CHECK(queue.ripe(2, kDelay, kService) <= kNow);
  // Four of them take 4 ms.
  REQUIRE_FALSE(queue.push(job(peer("b"), 2, milliseconds(5))));
  CHECK(queue.ripe(8, kDelay, kService) == kNow + milliseconds(1));
}

TEST_CASE("fair queue: a newcomer's turn is known") {
  FairQueue queue(100);
  CHECK(queue.ahead_of(peer("a"), kNow) == 0);
  fill(queue, peer("a"), 50);
  CHECK(queue.ahead_of(peer("a"), kNow + milliseconds(1000)) == 50);
  CHECK(queue.ahead_of(peer("a"), kNow + milliseconds(1)) == 0);  // before all of its own
  CHECK(queue.ahead_of(peer("b"), kNow + milliseconds(1000)) == 1);
  fill(queue, peer("b"), 3);
  CHECK(queue.ahead_of(peer("b"), kNow + milliseconds(1000)) == 3 + 4);
}

TEST_CASE("fair queue: a request can be taken back by its own connection alone") {
  FairQueue queue(10);
  fill(queue, peer("a", "1"), 2);
  CHECK_FALSE(queue.erase(peer("a", "2"), make_request_id(1, 0)));
  CHECK_FALSE(queue.erase(peer("b"), make_request_id(1, 0)));
  CHECK_FALSE(queue.erase(peer("a", "1"), make_request_id(1, 2)));
  CHECK(queue.erase(peer("a", "1"), make_request_id(1, 0)));
  CHECK_FALSE(queue.erase(peer("a", "1"), make_request_id(1, 0)));
  CHECK(queue.erase(peer("a", "1"), make_request_id(1, 1)));
  CHECK(queue.size() == 0);
  fill(queue, peer("a", "1"), 1, 5);
  CHECK(names(queue.take(5, kNow, kUnknown).jobs) == "a5");
}

TEST_CASE("pace: the median of the last ones") {
  Pace pace;
  CHECK(pace.median() == Clock::duration::zero());
  pace.add(milliseconds(7));
  CHECK(pace.median() == milliseconds(7));
  for (int i = 0; i < 10; ++i) pace.add(milliseconds(2));
  pace.add(milliseconds(900));
  CHECK(pace.median() == milliseconds(2));
  for (int i = 0; i < 15; ++i) pace.add(milliseconds(5));
  CHECK(pace.median() == milliseconds(5));
  for (int i = 0; i < 31; ++i) pace.add(milliseconds(1));
  CHECK(pace.median() == milliseconds(1));
}

}  // namespace offramp::test
