#include "net/link_session.h"

#include <algorithm>
#include <utility>

namespace offramp {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// The carrier may need a moment between reporting a connection and taking the first message.
constexpr milliseconds kRetryHello{2};
constexpr milliseconds kHelloInterval{1000};
constexpr int kMostSilences = 2;
// What a peer says of its own pace is believed up to here: nobody waits for minutes on its word.
constexpr microseconds kSlowest = std::chrono::seconds(10);

std::string describe(const WireModelId& model, int cut, const Shape& shape) {
  return "model " + short_id(model) + " from stage " + std::to_string(cut) + " with " +
         to_string(shape);
}

}  // namespace

LinkSession::LinkSession(std::string endpoint, const LinkIdentity& identity, const LinkTimes& times,
                         std::function<bool(Message)> send)
    : endpoint_(std::move(endpoint)),
      identity_(identity),
      times_(times),
      send_(std::move(send)),
      session_(random_session()) {}

void LinkSession::connected(Clock::time_point now) {
  connected_ = true;
  state_ = LinkState::kConnecting;
  left_ = false;
  unanswered_ = 0;
  away_.clear();
  window_ = 0;
  pictures_ = false;
  load_ = {};
  due_ = now;
}

void LinkSession::disconnected(const std::string& why, bool silent,
                               std::vector<LinkEvent>& events) {
  connected_ = false;
  if (silent && announced_) silences_ = std::min(silences_ + 1, kMostSilences);
  window_ = 0;
  pictures_ = false;
  left_ = false;
  state_ = LinkState::kDown;
  due_ = Clock::time_point::max();
  if (std::exchange(announced_, false)) events.push_back(LinkDown{endpoint_ + ": " + why, silent});
}

void LinkSession::received(Message message, Clock::time_point now, std::vector<LinkEvent>& events) {
  unanswered_ = 0;
  if (auto* verdict = std::get_if<Verdict>(&message)) {
    away_.erase(verdict->request);
    if (!verdict->hops.empty()) {
      const microseconds took{verdict->hops.front().compute_us};
      pace_ = std::max(std::clamp(took, microseconds{1}, kSlowest), 7 * pace_ / 8);
    }
    events.push_back(std::move(*verdict));
  } else if (auto* fault = std::get_if<Fault>(&message)) {
    receive(std::move(*fault), now, events);
  } else if (const auto* welcome = std::get_if<Welcome>(&message)) {
    receive(*welcome, now, events);
  } else if (const auto* pong = std::get_if<Pong>(&message)) {
    receive(*pong, now);
  } else if (const auto* credit = std::get_if<Credit>(&message)) {
    if (state_ == LinkState::kUp) window_ = credit->window;
  } else if (std::holds_alternative<Drain>(message) && state_ == LinkState::kUp) {
    state_ = LinkState::kDraining;
  }
  leave_when_done(now);
}

// A node that drains keeps the connection for answers that were not read yet: they would be lost
// with it. BYE says that all have been.
void LinkSession::leave_when_done(Clock::time_point now) {
  if (state_ != LinkState::kDraining || !away_.empty() || left_) return;
  left_ = send_(Bye{});
  if (left_) due_ = now + times_.ping_idle;
}

void LinkSession::receive(const Welcome& welcome, Clock::time_point now,
                          std::vector<LinkEvent>& events) {
  if (!greeting() || welcome.session != session_) return;
  if (welcome.model != identity_.model || welcome.cut != identity_.cut ||
      welcome.shape != identity_.shape) {
    refuse(Fault{.code = FaultCode::kModelMismatch, .model = welcome.model},
           endpoint_ + ": wanted " + describe(identity_.model, identity_.cut, identity_.shape) +
               ", found " + describe(welcome.model, welcome.cut, welcome.shape),
           events);
    return;
  }
  state_ = LinkState::kUp;
  announced_ = true;
  window_ = welcome.window;
  minor_ = welcome.minor;
  pictures_ = welcome.pictures;
  due_ = now;  // the first ping measures the round trip
  events.push_back(LinkUp{welcome});
}

void LinkSession::receive(Fault fault, Clock::time_point now, std::vector<LinkEvent>& events) {
  switch (fault.code) {
    case FaultCode::kVersion:
      refuse(fault, endpoint_ + ": " + fault.text, events);
      return;
    case FaultCode::kModelMismatch: {
      std::string why = endpoint_ + ": wanted " +
                        describe(identity_.model, identity_.cut, identity_.shape) +
                        ", found model " + short_id(fault.model) + ": " + fault.text;
      if (fault.request != RequestId{}) events.push_back(fault);
      refuse(std::move(fault), std::move(why), events);
      return;
    }
    case FaultCode::kNoSession:
      if (state_ == LinkState::kUp) connected(now);
      break;
    default:
      break;
  }
  if (fault.request == RequestId{}) return;
  away_.erase(fault.request);
  events.push_back(std::move(fault));
}

void LinkSession::receive(const Pong& pong, Clock::time_point now) {
  silences_ = 0;
  if (pong.sequence != ping_sequence_) return;
  const auto away = std::chrono::duration_cast<microseconds>(now - ping_sent_);
  const microseconds sample = std::max(microseconds{1}, away - microseconds{pong.held_us});
  // TCP's smoothing (RFC 6298), an eighth of each new sample; but a shorter way is believed at
  // once: while the long one is, no request is sent that could prove it wrong.
  round_trip_ =
      round_trip_.count() == 0 ? sample : std::min(sample, (7 * round_trip_ + sample) / 8);
  load_ = {.at = now,
           .queue_depth = pong.queue_depth,
           .service = microseconds{pong.service_us},
           .workers = pong.workers};
}

void LinkSession::cancel(const RequestId& request) {
  if (away_.erase(request) == 0 || minor_ < kMinorOfCredit) return;
  static_cast<void>(send_(Cancel{.request = request}));
}

void LinkSession::received_other_version(int major, std::vector<LinkEvent>& events) {
  refuse(Fault{.code = FaultCode::kVersion},
         endpoint_ + ": wanted protocol version " + std::to_string(kWireMajor) + ", found " +
             std::to_string(major),
         events);
}

void LinkSession::refuse(Fault fault, std::string why, std::vector<LinkEvent>& events) {
  if (state_ == LinkState::kMismatched) return;
  if (std::exchange(announced_, false)) events.push_back(LinkDown{.why = why});
  state_ = LinkState::kMismatched;
  due_ = Clock::time_point::max();
  events.push_back(LinkRefused{std::move(fault), std::move(why)});
}

int LinkSession::patience() const {
  const int known = pace_.count() > 0 ? times_.unanswered : 2 * times_.unanswered;
  return (known + static_cast<int>(pace_ / times_.ping_active)) << silences_;
}

bool LinkSession::tick(Clock::time_point now) {
  leave_when_done(now);
  if (left_) return now < due_;
  const bool up = state_ == LinkState::kUp || state_ == LinkState::kDraining;
  // A submit after a quiet time brings the next ping forward.
  if (up) due_ = std::min(due_, ping_sent_ + ping_interval(now));
  if (now < due_ || (!up && !greeting())) return true;
  if (unanswered_ >= (greeting() ? times_.unanswered : patience())) return false;
  if (greeting()) {
    const bool sent = send_(Hello{.session = session_,
                                  .model = identity_.model,
                                  .cut = identity_.cut,
                                  .shape = identity_.shape});
    if (sent) ++unanswered_;
    due_ = now + (sent ? kHelloInterval : kRetryHello);
    return true;
  }
  ping_sent_ = now;
  due_ = now + ping_interval(now);
  ++unanswered_;
  send_(Ping{.sequence = ++ping_sequence_});
  return true;
}

}  // namespace offramp
