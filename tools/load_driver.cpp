#include "tools/load_driver.h"

#include <algorithm>
#include <utility>

#include "engine/error.h"
#include "net/elapsed.h"

namespace offramp::cli {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kConnectingAtOnce = 32;
// A context has room for 1023 sockets, and a link takes three.
constexpr std::size_t kLinksPerContext = 256;
// Connections that a request may go over.
constexpr std::size_t kTries = 16;
// Sent before answers are read again.
constexpr int kBurst = 16;
// How often timers of links are looked at: of a thousand, one is due at any time.
constexpr milliseconds kServiceInterval{10};
// Answers that come after the deadline are late, after this they are lost.
constexpr milliseconds kPatience{2000};
// After all have been answered, for answers too many.
constexpr milliseconds kSettling{20};

// The part of `whole` that the `index`-th of `parts` has.
int share_of(int whole, int parts, int index) {
  return whole / parts + (index < whole % parts ? 1 : 0);
}

std::uint64_t number_of(const RequestId& id) {
  std::uint64_t number = 0;
  for (std::size_t i = 16; i-- > 8;) number = number << 8 | id[i];
  return number;
}

}  // namespace

const char* load_end_name(LoadEnd end) {
  switch (end) {
    case LoadEnd::kLost:
      return "lost";
    case LoadEnd::kOk:
      return "ok";
    case LoadEnd::kDegraded:
      return "degraded";
    case LoadEnd::kFault:
      return "error";
    case LoadEnd::kUnsent:
      return "unsent";
  }
  return "";
}

LoadDriver::LoadDriver(const LoadSetup& setup, std::span<const LoadSample> samples, int index)
    : setup_(setup),
      samples_(samples),
      index_(index),
      share_(static_cast<std::size_t>(share_of(setup.connections, setup.threads, index))),
      random_(setup.seed * 1000003 + static_cast<std::uint64_t>(index)),
      session_(random_session()) {
  // A Poller knows links by their place, and links their context.
  links_.reserve(share_);
}

// ---- connections ----

void LoadDriver::connect(Clock::time_point until) {
  while (!all_up()) {
    const auto up = static_cast<std::size_t>(std::ranges::count_if(
        links_, [](const Link& link) { return link.channel->state() == LinkState::kUp; }));
    while (links_.size() < share_ && links_.size() - up < kConnectingAtOnce) open_link();
    if (Clock::now() >= until)
      throw Error(ErrorKind::kUnavailable, setup_.next + ": wanted " + std::to_string(share_) +
                                               " connections, found " + std::to_string(up) +
                                               " in time" +
                                               (why_not_.empty() ? "" : " (" + why_not_ + ")"));
    turn(std::min(until, Clock::now() + milliseconds(100)));
  }
}

void LoadDriver::open_link() {
  if (links_.size() % kLinksPerContext == 0) context_ = std::make_shared<ZmqContext>();
  const auto number =
      links_.size() * static_cast<std::size_t>(setup_.threads) + static_cast<std::size_t>(index_);
  ZmqChannelOptions options;
  options.window = setup_.window;
  options.context = context_;
  if (!setup_.keys.empty()) options.keys = setup_.keys[number % setup_.keys.size()];
  Link& link = links_.emplace_back();
  link.number = static_cast<std::uint32_t>(number);
  link.channel = connect_zmq(setup_.next, setup_.identity, options);
  std::vector<Waitable> items;
  link.channel->waitables(items);
  poller_.add(links_.size() - 1, items);
}

bool LoadDriver::all_up() const {
  return links_.size() == share_ && std::ranges::all_of(links_, [](const Link& link) {
           return link.channel->state() == LinkState::kUp;
         });
}

// ---- one measurement ----

LoadDriver::Result LoadDriver::run(const LoadPhase& phase, Clock::time_point start) {
  start_ = start;
  const Clock::time_point end = start + phase.warmup + phase.duration;
  const Clock::time_point give_up = end + setup_.deadline + kPatience;
  next_send_ = start;
  if (phase.rate > 0.0) next_send_ = next_arrival(phase.rate);
  const int concurrency = share_of(phase.concurrency, setup_.threads, index_);
  while (true) {
    if (phase.rate > 0.0)
      send_open(phase.rate, end);
    else
      send_closed(concurrency, end);
    const Clock::time_point now = Clock::now();
    const bool settled = away_ == 0 && now >= end + kSettling;
    if (next_send_ >= end && (settled || now >= give_up)) break;
    turn(next_send_ < end ? next_send_ : (now < end + kSettling ? end + kSettling : give_up));
  }
  first_id_ += result_.records.size();
  for (Link& link : links_) link.away.clear();
  away_ = 0;
  return std::exchange(result_, {});
}

void LoadDriver::send_open(double rate, Clock::time_point end) {
  for (int i = 0; i < kBurst && next_send_ < end && next_send_ <= Clock::now(); ++i) {
    send(next_send_, link_with_room(kTries));
    next_send_ = next_arrival(rate);
  }
}

void LoadDriver::send_closed(int most_away, Clock::time_point end) {
  Clock::time_point now = Clock::now();
  if (now < start_) return;
  const auto most = static_cast<std::size_t>(most_away);
  for (int i = 0; i < kBurst && now < end && away_ < most; ++i) {
    Link* const link = link_with_room(links_.size());
    if (link == nullptr) break;
    send(now, link);
    now = Clock::now();
  }
  // Any event ends the wait for it, too.
  next_send_ = std::min(end, now + kServiceInterval);
}

// When this driver's next request is to be sent, of a total of `rate` a second. Even arrivals are
// counted from the start, for rounding would add up; the threads take turns.
Clock::time_point LoadDriver::next_arrival(double rate) {
  const auto after = [](double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  };
  if (setup_.arrivals == Arrivals::kUniform) {
    const auto number = result_.records.size() * static_cast<std::size_t>(setup_.threads) +
                        static_cast<std::size_t>(index_);
    return start_ + after(static_cast<double>(number) / rate);
  }
  std::exponential_distribution<double> gap(rate / static_cast<double>(setup_.threads));
  return next_send_ + after(gap(random_));
}

bool LoadDriver::has_room(const Link& link) const {
  const int window = std::min(setup_.window, link.channel->window());
  return link.channel->state() == LinkState::kUp &&
         link.away.size() < static_cast<std::size_t>(std::max(0, window));
}

// Any device may be the next to have a picture; when it cannot send, one of the `tries` after it
// may.
LoadDriver::Link* LoadDriver::link_with_room(std::size_t tries) {
  const std::size_t first = random_() % links_.size();
  for (std::size_t i = 0; i < std::min(tries, links_.size()); ++i) {
    Link& link = links_[(first + i) % links_.size()];
    if (has_room(link)) return &link;
  }
  return nullptr;
}

// A null link: nobody could send it.
void LoadDriver::send(Clock::time_point intended, Link* link) {
  LoadRecord& record = result_.records.emplace_back();
  answered_.push_back(false);
  record.intended = intended - start_;
  record.sample = static_cast<std::uint32_t>(next_sample_++ % samples_.size());
  record.reason = submit(record, intended, link);
  if (record.reason != Reason::kNone) record.end = LoadEnd::kUnsent;
}

// kNone, or why the request could not be sent.
Reason LoadDriver::submit(LoadRecord& record, Clock::time_point intended, Link* link) {
  if (link == nullptr) {
    const bool any_up = std::ranges::any_of(
        links_, [](const Link& each) { return each.channel->state() == LinkState::kUp; });
    return any_up ? Reason::kOverloaded : Reason::kDisconnected;
  }
  const Clock::time_point now = Clock::now();
  const auto budget = budget_for_next(now, intended + setup_.deadline, link->channel->round_trip());
  if (budget <= Clock::duration::zero()) return Reason::kLate;
  const std::size_t place = result_.records.size() - 1;
  std::uint32_t sent_bytes = 0;
  const bool sent =
      link->channel->submit(Handoff{.request = make_request_id(session_, first_id_ + place),
                                    .model = setup_.identity.model,
                                    .cut = setup_.identity.cut,
                                    .attempt = 0,
                                    .hop = static_cast<std::uint8_t>(setup_.identity.cut - 1),
                                    .budget_us = to_us(budget),
                                    .tensor = samples_[record.sample].tensor},
                            sent_bytes);
  touched_.push_back(link);
  if (!sent) return Reason::kDisconnected;
  record.sent = now - intended;
  record.connection = link->number;
  link->away.push_back(place);
  ++away_;
  return Reason::kNone;
}

// ---- what comes back ----

// Waits for the next event, at most until `until`, and handles all there are.
void LoadDriver::turn(Clock::time_point until) {
  // As net/poller.h asks.
  for (Link* const link : touched_) service(*link, Clock::now());
  touched_.clear();
  poller_.wait(std::min(until, next_service_), ready_);
  for (const std::size_t place : ready_) service(links_[place], Clock::now());
  const Clock::time_point now = Clock::now();
  if (now < next_service_) return;
  Clock::time_point due = Clock::time_point::max();
  for (Link& link : links_) {
    if (link.channel->due() <= now) service(link, now);
    due = std::min(due, link.channel->due());
  }
  next_service_ = std::max(due, now + kServiceInterval);
}

void LoadDriver::service(Link& link, Clock::time_point now) {
  std::vector<LinkEvent> events;
  Clock::time_point due;
  // What it sends moves what is due, and it is to be read once more.
  do {
    due = link.channel->due();
    link.channel->service(now, events);
  } while (link.channel->due() != due);
  for (LinkEvent& event : events) handle(link, std::move(event), now);
  next_service_ = std::min(next_service_, std::max(due, now + kServiceInterval));
}

void LoadDriver::handle(Link& link, LinkEvent event, Clock::time_point now) {
  if (const auto* verdict = std::get_if<Verdict>(&event)) {
    if (LoadRecord* const record = answered(link, verdict->request, now)) {
      record->end = verdict->degraded == Reason::kNone ? LoadEnd::kOk : LoadEnd::kDegraded;
      record->reason = verdict->degraded;
      record->exit = verdict->decision.exit;
      record->right = right_answer(samples_[record->sample], verdict->decision,
                                   verdict->degraded != Reason::kNone);
    }
  } else if (const auto* fault = std::get_if<Fault>(&event)) {
    if (LoadRecord* const record = answered(link, fault->request, now)) {
      record->end = LoadEnd::kFault;
      record->code = fault->code;
    }
  } else if (const auto* down = std::get_if<LinkDown>(&event)) {
    why_not_ = down->why;
    ++result_.broken;
    away_ -= link.away.size();
    link.away.clear();
  } else if (const auto* barred = std::get_if<LinkBarred>(&event)) {
    why_not_ = barred->why;
  } else if (const auto* refused = std::get_if<LinkRefused>(&event)) {
    const bool version = refused->fault.code == FaultCode::kVersion;
    throw Error(version ? ErrorKind::kUnavailable : ErrorKind::kBadModel, refused->why);
  }
}

// The request that this is the first answer to; null for another answer, and for one to a request
// of an earlier measurement, which counted as lost there.
LoadRecord* LoadDriver::answered(Link& link, const RequestId& request, Clock::time_point now) {
  const std::uint64_t number = number_of(request);
  if (request != make_request_id(session_, number) || number >= answered_.size() ||
      answered_[number]) {
    ++result_.duplicated;
    return nullptr;
  }
  answered_[number] = true;
  if (number < first_id_) return nullptr;
  const std::size_t place = number - first_id_;
  LoadRecord& record = result_.records[place];
  record.answered = true;
  record.latency = now - start_ - record.intended;
  if (std::erase(link.away, place) > 0) --away_;
  return &record;
}

}  // namespace offramp::cli
