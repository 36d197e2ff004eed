// When a link is given up: what its client says, and how long it bears silence.
#include "net/link_session.h"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

using namespace offramp;
using std::chrono::milliseconds;

namespace {

const LinkIdentity kIdentity{.cut = 1, .shape = {1, 2, 2}, .classes = 2, .exits = 2};

// A link with work on it, and a clock that goes on when it is told to.
class Silence {
 public:
  void greet() {
    link_.connected(now_);
    CHECK(link_.tick(now_));
    const auto* hello = std::get_if<Hello>(&said_.back());
    REQUIRE(hello != nullptr);
    receive(Welcome{.session = hello->session, .cut = 1, .shape = kIdentity.shape, .window = 8});
    CHECK(link_.state() == LinkState::kUp);
    link_.submitted(make_request_id(1, 1));
  }

  // Until the link is given up.
  milliseconds borne() {
    const Clock::time_point begin = now_;
    while (link_.tick(now_)) {
      REQUIRE(now_ - begin < std::chrono::minutes(1));
      now_ += milliseconds(1);
    }
    link_.disconnected("no sign of life", true, events_);
    return std::chrono::duration_cast<milliseconds>(now_ - begin);
  }

  void answer_request(std::chrono::microseconds took, std::chrono::microseconds queued = {}) {
    const auto u32 = [](auto time) { return static_cast<std::uint32_t>(time.count()); };
    Verdict verdict;
    verdict.request = make_request_id(1, 1);
    verdict.hops = {Hop{.queue_us = u32(queued), .compute_us = u32(took)}};
    receive(std::move(verdict));
    link_.submitted(make_request_id(1, 1));
  }

  void answer_ping() {
    CHECK(link_.tick(now_));
    const auto* ping = std::get_if<Ping>(&said_.back());
    REQUIRE(ping != nullptr);
    receive(Pong{.sequence = ping->sequence});
  }

 private:
  void receive(Message message) { link_.received(std::move(message), now_, events_); }

  Clock::time_point now_ = Clock::now();
  std::vector<Message> said_;
  std::vector<LinkEvent> events_;
  LinkSession link_{"node", kIdentity, LinkTimes{}, [this](Message message) {
                      said_.push_back(std::move(message));
                      return true;
                    }};
};

}  // namespace

TEST_CASE("link: three pings without an answer end it, within two seconds") {
  Silence link;
  link.greet();
  link.answer_request(milliseconds(10));
  link.answer_ping();
  CHECK(link.borne() == milliseconds(2000));
}

TEST_CASE("link: a node that takes long, or nobody knows how long, may be silent for longer") {
  Silence link;
  link.greet();
  link.answer_ping();
  CHECK(link.borne() == milliseconds(3500));
  link.greet();
  link.answer_request(milliseconds(2000));
  link.answer_ping();
  CHECK(link.borne() == milliseconds(4000));
}

TEST_CASE("link: what a node says of its pace is not believed beyond reason") {
  Silence link;
  link.greet();
  link.answer_request(std::chrono::minutes(60));
  link.answer_ping();
  CHECK(link.borne() == milliseconds(12000));
}

TEST_CASE("link: how long requests wait for a worker is no reason to be silent") {
  Silence link;
  link.greet();
  link.answer_request(milliseconds(10), std::chrono::seconds(30));
  link.answer_ping();
  CHECK(link.borne() == milliseconds(2000));
}

TEST_CASE("link: one that ended in silence before any PONG is given twice the time, and again") {
  Silence link;
  link.greet();
  link.answer_request(milliseconds(10));
  CHECK(link.borne() == milliseconds(1500));
  link.greet();
  CHECK(link.borne() == milliseconds(3000));
  link.greet();
  CHECK(link.borne() == milliseconds(6000));
  link.greet();
  CHECK(link.borne() == milliseconds(6000));
  link.greet();
  link.answer_ping();
  CHECK(link.borne() == milliseconds(2000));
}
