// The requests that a node has handed to its next tier, and whose they are: the way back of their
// answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "net/batch_runner.h"
#include "net/log.h"
#include "net/upstream.h"

namespace offramp {

/// A verdict and where it goes.
struct Answer {
  Peer peer;
  Verdict verdict;
};

/// Each request that hand_on() takes leads to exactly one Answer, before its answer_by, unless it
/// is forgotten. Tiers may be started in any order: until the next one has been met for the first
/// time, requests wait for it a moment.
class NextTier {
 public:
  /// `nodes` run the model from `stage` on. Throws what Upstream does.
  NextTier(NextNodes nodes, Policy policy, const WireModelId& model, int stage, Log log);

  /// Gives the sample to the next tier, keeps `own` for the worst case and returns kNone; or says
  /// why it cannot, and `own` is still the caller's.
  [[nodiscard]] Reason hand_on(Verdict& own, Done& done, Clock::time_point now);

  /// Upstream::audit() for a sample that `own` has answered.
  bool audit(const Decision& own, Done& done, Clock::time_point now);
  std::optional<Audited> take_audited() { return upstream_.take_audited(); }

  /// Nobody waits for this answer any more. False when the request is not away.
  bool forget(const Peer& peer, const RequestId& request);

  /// Appends the answers that have come or may be waited for no longer.
  void service(Clock::time_point now, std::vector<Answer>& answers);

  /// Appends own answers for all requests that are away.
  void give_up(Reason reason, Clock::time_point now, std::vector<Answer>& answers);

  /// Appends what to wait on; service() is due when one of them is readable, and at due().
  void waitables(std::vector<Waitable>& out) const { upstream_.waitables(out); }
  Clock::time_point due() const;

  std::size_t away() const { return upstream_.away() + waiting_.size(); }
  /// Answers that came too late, or twice, and were dropped.
  std::uint64_t unmatched() const { return upstream_.unmatched(); }
  /// How the links to its nodes stand; empty when there is no next tier.
  std::vector<LinkStatus> links() const { return upstream_.links(Clock::now()); }

 private:
  struct Asker {
    Peer peer;
    RequestId request{};
  };

  /// True when an absent next tier may only be late to start.
  bool may_appear(Clock::time_point now);
  Clock::time_point waits_until(const Request& request) const;
  void send_waiting(Clock::time_point now, std::vector<Settled>& settled);
  /// The peer of a request that has come to its end.
  Peer take(std::uint64_t ticket);
  void give(std::vector<Settled> settled, std::vector<Answer>& answers);

  Log log_;
  Upstream upstream_;
  std::uint64_t next_ticket_ = 0;
  std::map<std::uint64_t, Asker> askers_;  ///< by ticket
  std::map<std::pair<Peer, RequestId>, std::uint64_t> tickets_;
  bool met_ = false;                          ///< the next tier has been up
  std::optional<Clock::time_point> meet_by_;  ///< none before it has been needed
  std::vector<Request> waiting_;
};

}  // namespace offramp
