#include "tests/chaos_proxy/proxy.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace offramp::chaos {
namespace {

constexpr std::size_t kBlock = 64 << 10;
// Before the links' own.
constexpr std::size_t kControl = 0, kListener = 1, kFixed = 2;

void say(int replies, const std::string& line) {
  const std::string text = line + "\n";
  // Who does not read the answers does not want them.
  static_cast<void>(!write(replies, text.data(), text.size()));
}

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

int poll_until(std::vector<pollfd>& items, Clock::time_point now, Clock::time_point until) {
  timespec patience{};
  if (until == Clock::time_point::max()) return ppoll(items.data(), items.size(), nullptr, nullptr);
  const auto left = std::max(Clock::duration::zero(), until - now);
  patience.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
  patience.tv_nsec = (left % std::chrono::seconds(1)).count();
  return ppoll(items.data(), items.size(), &patience, nullptr);
}

}  // namespace

Proxy::Proxy(const std::string& listen, std::string to, std::uint64_t seed)
    : listener_(listen_on(listen)), to_(std::move(to)), seeds_(seed) {
  check_address(to_);
}

void Proxy::run(int control, int replies) {
  std::string heard;
  std::vector<pollfd> items;
  while (true) {
    Clock::time_point until = Clock::time_point::max();
    items.assign({{control, POLLIN, 0}, {listener_.number(), POLLIN, 0}});
    if (settings_[0].hold || settings_[1].hold) items[kListener].events = 0;
    watch(items, Clock::now(), until);
    if (poll_until(items, Clock::now(), until) < 0 && errno != EINTR)
      throw std::runtime_error("poll: wanted events, found an error");
    const Clock::time_point now = Clock::now();
    std::size_t next = kFixed;
    for (auto link = links_.begin(); link != links_.end();) {
      const auto current = link++;
      const short client = items[next++].revents, server = items[next++].revents;
      serve(*current, client, server, now);
      if (over(*current)) links_.erase(current);
    }
    if (items[kListener].revents != 0) accept_all();
    if (items[kControl].revents == 0) continue;
    std::array<char, 4096> block;
    const ssize_t got = read(control, block.data(), block.size());
    if (got <= 0) return;
    heard.append(block.data(), static_cast<std::size_t>(got));
    for (std::size_t end = heard.find('\n'); end != std::string::npos; end = heard.find('\n')) {
      const bool goes_on = obey(heard.substr(0, end), replies);
      heard.erase(0, end + 1);
      if (!goes_on) return;
    }
  }
}

void Proxy::watch(std::vector<pollfd>& items, Clock::time_point now, Clock::time_point& until) {
  for (Link& link : links_) {
    for (const std::size_t source : {std::size_t{0}, std::size_t{1}}) {
      const short events = events_of(link, source, now, until);
      // One that has gone would be reported for ever.
      const bool ignored = link.broken[source] || !link.source(source).open();
      items.push_back({ignored ? -1 : link.source(source).number(), events, 0});
    }
  }
}

// What to wait for at the source of a direction, which is the target of the other one.
short Proxy::events_of(Link& link, std::size_t source, Clock::time_point now,
                       Clock::time_point& until) {
  if (source == 1 && link.connecting) return POLLOUT;
  short events = 0;
  if (link.flows[source].wants_more(settings_[source])) events |= POLLIN;
  const std::size_t back = 1 - source;
  Flow& flow = link.flows[back];
  if (passes_nothing(back) || link.broken[source]) return events;
  const double rate = settings_[back].rate;
  if (flow.due() > now) {
    until = std::min(until, flow.due());
  } else if (allowances_[back].at(now, rate) == 0) {
    until = std::min(until, allowances_[back].again(now, rate));
  } else {
    events |= POLLOUT;
  }
  return events;
}

void Proxy::accept_all() {
  for (Descriptor client = accept_from(listener_); client.open(); client = accept_from(listener_)) {
    ++statistics_.accepted;
    Link& link = links_.emplace_back(std::move(client), seeds_);
    // What is lost either way includes the handshake of TCP.
    link.abandoned = settings_[0].blackhole || settings_[1].blackhole;
    if (link.abandoned)
      link.connecting = false;
    else
      link.server = connect_to(to_);
    if (link.abandoned || link.server.open()) continue;
    ++statistics_.unreachable;
    end(link, true);
    links_.pop_back();
  }
}

void Proxy::serve(Link& link, short client_events, short server_events, Clock::time_point now) {
  if (link.connecting && server_events != 0) {
    if (!connected(link.server)) {
      ++statistics_.unreachable;
      end(link, true);
      return;
    }
    link.connecting = false;
    server_events = 0;
  }
  const std::array<short, kDirections> events = {client_events, server_events};
  for (const std::size_t direction : {std::size_t{0}, std::size_t{1}}) {
    if ((events[direction] & POLLIN) != 0)
      read_from(link, direction, now);
    else if ((events[direction] & (POLLERR | POLLHUP)) != 0)
      link.broken[direction] = true;
  }
  for (const std::size_t direction : {std::size_t{0}, std::size_t{1}}) {
    if (settings_[direction].blackhole) link.flows[direction].lose();
    if (!passes_nothing(direction) && !link.abandoned && !link.connecting)
      write_to(link, direction, now);
  }
}

void Proxy::read_from(Link& link, std::size_t direction, Clock::time_point now) {
  std::array<char, kBlock> block;
  const ssize_t got = recv(link.source(direction).number(), block.data(), block.size(), 0);
  if (got < 0) {
    link.broken[direction] = !would_block();
  } else if (got == 0) {
    link.flows[direction].end();
  } else if (!link.abandoned) {
    Flow& flow = link.flows[direction];
    const std::uint64_t before = flow.corrupted();
    flow.take({block.data(), static_cast<std::size_t>(got)}, now, settings_[direction]);
    statistics_.corrupted += flow.corrupted() - before;
  }
}

void Proxy::write_to(Link& link, std::size_t direction, Clock::time_point now) {
  Flow& flow = link.flows[direction];
  const Descriptor& target = link.target(direction);
  while (true) {
    const std::span<const char> bytes =
        flow.ready(now, allowances_[direction].at(now, settings_[direction].rate));
    if (bytes.empty()) break;
    const ssize_t put = send(target.number(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put < 0) {
      if (!would_block()) link.broken[1 - direction] = true;
      return;
    }
    flow.sent(static_cast<std::size_t>(put));
    allowances_[direction].spend(static_cast<std::size_t>(put));
    statistics_.bytes[direction] += static_cast<std::uint64_t>(put);
  }
  if (flow.finished() && !std::exchange(link.told_end[direction], true))
    shutdown(target.number(), SHUT_WR);
}

// Ends what is to end; true when nothing is left of the link.
bool Proxy::over(Link& link) {
  if (!link.client.open()) return true;
  if (link.abandoned) {
    // Nobody is left to be told of the client's end.
    if (link.broken[0] || link.flows[0].ended()) end(link, false);
  } else if (link.told_end[0] && link.told_end[1]) {
    end(link, false);
  } else if ((link.broken[0] && !passes_nothing(0)) || (link.broken[1] && !passes_nothing(1))) {
    end(link, true);
  }
  return !link.client.open();
}

void Proxy::end(Link& link, bool reset) {
  for (Descriptor* side : {&link.client, &link.server}) {
    if (reset)
      side->reset();
    else
      side->close();
  }
}

bool Proxy::obey(const std::string& line, int replies) {
  const Command command = apply(line, settings_);
  if (!command.error.empty()) {
    say(replies, "error: " + command.error);
    return true;
  }
  for (Link& link : links_) {
    switch (command.action) {
      case Action::kHeal:
        if (link.abandoned || link.flows[0].has_hole() || link.flows[1].has_hole()) end(link, true);
        break;
      case Action::kClose:
      case Action::kReset:
        end(link, command.action == Action::kReset);
        break;
      case Action::kAbandon:
        link.server.close();
        link.abandoned = true;
        link.connecting = false;
        for (Flow& flow : link.flows) flow.lose();
        break;
      case Action::kNone:
      case Action::kStatistics:
      case Action::kQuit:
        break;
    }
  }
  std::erase_if(links_, [](const Link& link) { return !link.client.open(); });
  say(replies, command.action == Action::kStatistics ? statistics_json() : "ok");
  return command.action != Action::kQuit;
}

std::string Proxy::statistics_json() const {
  const auto item = [](const char* name, std::uint64_t value) {
    return std::string("\"") + name + "\": " + std::to_string(value);
  };
  return "{" + item("accepted", statistics_.accepted) + ", " + item("open", links_.size()) + ", " +
         item("unreachable", statistics_.unreachable) + ", " +
         item("bytes_up", statistics_.bytes[0]) + ", " + item("bytes_down", statistics_.bytes[1]) +
         ", " + item("corrupted", statistics_.corrupted) + "}";
}

}  // namespace offramp::chaos
