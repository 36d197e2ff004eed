// The client side of a link against a node that says anything at any time: its state and its events
// stay in order.
//
// Input: one step after the other. A byte says which; then what a message needs.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include "net/link_session.h"
#include "tests/fuzz/messages.h"

using namespace offramp;

namespace {

void require(bool good) {
  if (!good) std::abort();
}

constexpr LinkIdentity kIdentity{.model = {1, 2, 3},
                                 .cut = 1,
                                 .shape = {.channels = 2, .height = 2, .width = 2},
                                 .classes = 5,
                                 .exits = 2};
constexpr DecodeLimits kLimits{.max_payload_bytes = 0, .max_classes = 5, .max_exits = 2};

struct World {
  bool can_send = true;
  std::uint64_t session = 0;  ///< of the last HELLO
  bool told_up = false;
  LinkSession link{"fuzz", kIdentity, LinkTimes{}, [this](Message message) {
                     const auto* hello = std::get_if<Hello>(&message);
                     if (can_send && hello != nullptr) session = hello->session;
                     require(!std::holds_alternative<Welcome>(message));
                     return can_send;
                   }};

  // LinkUp and LinkDown take turns.
  void look_at(const std::vector<LinkEvent>& events) {
    for (const LinkEvent& event : events) {
      if (const auto* up = std::get_if<LinkUp>(&event)) {
        require(!told_up || up->welcome.session == session);
        require(up->welcome.model == kIdentity.model && up->welcome.shape == kIdentity.shape);
        told_up = true;
      } else if (std::holds_alternative<LinkDown>(event)) {
        require(told_up);
        told_up = false;
      } else if (const auto* fault = std::get_if<Fault>(&event)) {
        require(fault->request != RequestId{});
      }
    }
    require(link.state() != LinkState::kUp || told_up);
    require(link.round_trip().count() >= 0);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input in({data, size});
  World world;
  LinkSession& link = world.link;
  Clock::time_point now = Clock::time_point{} + std::chrono::hours(1);
  while (!in.empty()) {
    const std::uint8_t step = in.byte();
    std::vector<LinkEvent> events;
    world.can_send = step < 0xe0;
    switch (step % 8) {
      case 0:
        link.connected(now);
        break;
      case 1:
        link.disconnected("fuzz", (step & 8) != 0, events);
        break;
      case 2:
        if ((step & 8) != 0)
          link.cancel(make_request_id(1, in.byte()));
        else
          link.submitted(make_request_id(1, in.byte()));
        break;
      case 3:
        link.received_other_version(in.byte(), events);
        break;
      case 4:
        now += std::chrono::milliseconds(in.byte()) * 64;
        if (!link.tick(now)) link.disconnected("silence", true, events);
        break;
      case 5:
        link.received(Welcome{.session = world.session,
                              .model = kIdentity.model,
                              .cut = kIdentity.cut,
                              .shape = kIdentity.shape,
                              .window = in.byte()},
                      now, events);
        break;
      default: {
        const Hello plain{.session = world.session,
                          .model = kIdentity.model,
                          .cut = kIdentity.cut,
                          .shape = kIdentity.shape};
        auto decoded = fuzz::message(in, plain, kLimits);
        if (auto* message = std::get_if<Message>(&decoded))
          link.received(std::move(*message), now, events);
      }
    }
    world.look_at(events);
  }
  return 0;
}
