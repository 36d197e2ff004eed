#include "net/replicas.h"

#include <algorithm>
#include <array>

#include "engine/error.h"

namespace offramp {
namespace {

// Between lookups of a name while none of its nodes is up, or after one was lost.
constexpr std::chrono::seconds kSoon{1};

// Of several nodes' obstacles, the one that says most is told: what would have served, had it been
// faster or less busy, before what could not be reached.
int telling(Reason reason) {
  constexpr std::array kOrder = {Reason::kDisconnected, Reason::kModelMismatch, Reason::kDraining,
                                 Reason::kRefused,      Reason::kPeerLost,      Reason::kExpired,
                                 Reason::kOverloaded,   Reason::kLate};
  return static_cast<int>(std::ranges::find(kOrder, reason) - kOrder.begin());
}

bool leads_to(const std::vector<std::string>& addresses, const Replica& replica) {
  return std::ranges::binary_search(addresses, replica.address());
}

}  // namespace

Replicas::Replicas(NextNodes nodes, Log log)
    : dial_(std::move(nodes.dial)),
      look_up_again_(nodes.look_up_again),
      log_(std::move(log)),
      random_(nodes.seed) {
  for (std::unique_ptr<Channel>& link : nodes.links) add({}, std::move(link));
  for (const std::string& endpoint : nodes.endpoints) {
    if (is_name(endpoint))
      names_.try_emplace(endpoint);
    else
      add(endpoint, endpoint);
  }
  if (!names_.empty()) resolver_.emplace(std::move(nodes.resolve));
  look_up(Clock::now());
}

void Replicas::add(const std::string& endpoint, const std::string& address) {
  // Two names may lead to one node.
  const auto known = [&](const auto& replica) { return replica->address() == address; };
  if (std::ranges::none_of(replicas_, known)) add(endpoint, dial_(endpoint, address));
}

void Replicas::add(const std::string& endpoint, std::unique_ptr<Channel> channel) {
  replicas_.push_back(std::make_unique<Replica>(next_id_++, endpoint, std::move(channel)));
}

void Replicas::service(Clock::time_point now, std::vector<Event>& events) {
  if (resolver_) {
    while (const std::optional<Resolver::Answer> answer = resolver_->next()) take(*answer, now);
    look_up(now);
  }
  std::erase_if(replicas_, [](const auto& replica) { return replica->gone(); });
  std::vector<LinkEvent> of_one;
  for (const std::unique_ptr<Replica>& replica : replicas_) {
    of_one.clear();
    replica->channel().service(now, of_one);
    replica->look_at_link(now);
    for (LinkEvent& event : of_one) events.emplace_back(replica.get(), std::move(event));
  }
}

bool Replicas::reachable(const Name& name) const {
  return std::ranges::any_of(replicas_, [&](const auto& replica) {
    return replica->channel().state() == LinkState::kUp && leads_to(name.addresses, *replica);
  });
}

bool Replicas::wanted(const Replica& replica) const {
  return !names_.contains(replica.endpoint()) ||
         std::ranges::any_of(
             names_, [&](const auto& entry) { return leads_to(entry.second.addresses, replica); });
}

void Replicas::look_up(Clock::time_point now) {
  for (auto& [endpoint, name] : names_) {
    if (now < name.next_lookup) continue;
    resolver_->ask(endpoint);
    name.last_lookup = now;
    name.next_lookup = now + (reachable(name) ? look_up_again_ : kSoon);
  }
}

void Replicas::lost(const Replica& replica, Clock::time_point now) {
  for (auto& [endpoint, name] : names_)
    if (leads_to(name.addresses, replica))
      name.next_lookup = std::min(name.next_lookup, std::max(now, name.last_lookup + kSoon));
}

// A lookup that fails changes nothing: it says little about nodes that were found before.
void Replicas::take(const Resolver::Answer& answer, Clock::time_point now) {
  Name& name = names_.at(answer.endpoint);
  std::string problem = answer.problem;
  for (const std::string& address : answer.addresses) {
    try {
      add(answer.endpoint, address);
    } catch (const Error& error) {
      problem = error.what();
    }
  }
  if (!problem.empty() && problem != name.problem && log_)
    log_(LogLevel::kError, "next tier: " + problem);
  name.problem = std::move(problem);
  if (answer.addresses.empty()) return;
  name.addresses = answer.addresses;
  for (const std::unique_ptr<Replica>& replica : replicas_) replica->set_leaving(!wanted(*replica));
  name.next_lookup = name.last_lookup + (reachable(name) ? look_up_again_ : kSoon);
  name.next_lookup = std::max(name.next_lookup, now);
}

std::vector<Replica*> Replicas::candidates(Clock::duration time, Clock::time_point now,
                                           const Replica* except, bool pictures) const {
  std::vector<Replica*> found;
  for (const std::unique_ptr<Replica>& replica : replicas_)
    if (replica.get() != except && replica->obstacle(now) == Reason::kNone &&
        replica->fits(time, now) && (!pictures || replica->channel().takes_pictures()))
      found.push_back(replica.get());
  return found;
}

Reason Replicas::obstacle(Clock::duration time, Clock::time_point now) const {
  Reason told = Reason::kDisconnected;
  for (const std::unique_ptr<Replica>& replica : replicas_) {
    Reason reason = replica->obstacle(now);
    if (reason == Reason::kNone) {
      if (replica->fits(time, now)) return Reason::kNone;
      reason = Reason::kLate;
    }
    if (telling(reason) > telling(told)) told = reason;
  }
  return told;
}

Replica* Replicas::choose(Clock::duration time, Clock::time_point now, const Replica* except,
                          bool pictures) {
  const std::vector<Replica*> found = candidates(time, now, except, pictures);
  if (found.empty()) return nullptr;
  if (found.size() == 1) return found[0];
  std::uniform_int_distribution<std::size_t> any(0, found.size() - 1), other(1, found.size() - 1);
  const std::size_t first = any(random_);
  Replica* const a = found[first];
  Replica* const b = found[(first + other(random_)) % found.size()];
  if (a->away() != b->away()) return a->away() < b->away() ? a : b;
  const auto of_a = a->predicted(now), of_b = b->predicted(now);
  // Else a node that was slower once would be so for ever, where little is asked. A second attempt
  // has no time to find out.
  const bool try_a = except == nullptr && a->overlooked(now) && of_a < time;
  const bool try_b = except == nullptr && b->overlooked(now) && of_b < time;
  if (try_a && try_b && a->last_sent() != b->last_sent())
    return b->last_sent() < a->last_sent() ? b : a;
  if (try_a != try_b) return try_a ? a : b;
  return of_b < of_a ? b : a;
}

Replica* Replicas::choose_to_spare(Clock::duration time, Clock::time_point now, bool pictures) {
  std::vector<Replica*> found = candidates(time, now, nullptr, pictures);
  std::erase_if(found, [now](const Replica* each) { return !each->has_room_to_spare(now); });
  if (found.empty()) return nullptr;
  return found[std::uniform_int_distribution<std::size_t>(0, found.size() - 1)(random_)];
}

bool Replicas::any(LinkState state) const {
  return std::ranges::any_of(
      replicas_, [state](const auto& replica) { return replica->channel().state() == state; });
}

bool Replicas::all(LinkState state) const {
  return !replicas_.empty() && std::ranges::all_of(replicas_, [state](const auto& replica) {
    return replica->channel().state() == state;
  });
}

bool Replicas::any_takes_pictures() const {
  return std::ranges::any_of(replicas_, [](const auto& replica) {
    return replica->channel().state() == LinkState::kUp && replica->channel().takes_pictures();
  });
}

bool Replicas::full(Clock::time_point now) const {
  bool full = false;
  for (const std::unique_ptr<Replica>& replica : replicas_) {
    if (replica->obstacle(now) == Reason::kNone) return false;
    full = full || replica->full(now);
  }
  return full;
}

void Replicas::waitables(std::vector<Waitable>& out) const {
  for (const std::unique_ptr<Replica>& replica : replicas_) replica->channel().waitables(out);
  if (resolver_) out.push_back({.fd = resolver_->fd()});
}

Clock::time_point Replicas::due() const {
  Clock::time_point due = Clock::time_point::max();
  for (const std::unique_ptr<Replica>& replica : replicas_)
    due = std::min(due, replica->channel().due());
  for (const auto& [endpoint, name] : names_) due = std::min(due, name.next_lookup);
  return due;
}

std::string Replicas::endpoints() const {
  std::vector<std::string> all;
  for (const auto& [endpoint, name] : names_) all.push_back(endpoint);
  for (const std::unique_ptr<Replica>& replica : replicas_)
    if (!names_.contains(replica->endpoint())) all.push_back(replica->address());
  std::string text;
  for (const std::string& each : all) text += (text.empty() ? "" : ", ") + each;
  return text;
}

std::vector<LinkStatus> Replicas::status(Clock::time_point now) const {
  std::vector<LinkStatus> all;
  for (const std::unique_ptr<Replica>& replica : replicas_) all.push_back(replica->status(now));
  return all;
}

Replica* Replicas::find(std::uint64_t id) {
  const auto found =
      std::ranges::find_if(replicas_, [id](const auto& replica) { return replica->id() == id; });
  return found == replicas_.end() ? nullptr : found->get();
}

}  // namespace offramp
