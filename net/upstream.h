// The tier after this one, however many nodes it has: who of them gets a request, when one is
// given up, tried elsewhere or called back, and how its answer finds the way home. A device and a
// node hand on through it. Not thread-safe.
//
// net/WIRE.md, "Which peer, and when again", is the specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "net/audit.h"
#include "net/log.h"
#include "net/policy.h"
#include "net/replicas.h"
#include "net/retry_budget.h"

namespace offramp {

/// One sample that the next tier is to go on with.
struct Request {
  std::uint64_t ticket = 0;  ///< the caller's name for it, unique among those away
  Verdict own{};             ///< what the caller answers if nothing better comes; one hop, its own
  WireTensor tensor{};       ///< at the cut; with kPixels, the picture, for nodes that take it
  std::uint8_t hop = 0;      ///< links passed before
  Clock::time_point answer_by{};
};

/// A request that has come to its end.
struct Settled {
  std::uint64_t ticket = 0;
  /// The next tier's, behind the caller's hop; or the caller's own, marked with the reason.
  Verdict verdict;
  Clock::time_point answer_by{};
  DType dtype = DType::kNone;  ///< of the tensor that was sent
};

class Upstream {
 public:
  /// `nodes` run the model from `stage` on. With kLocalOnly they are left alone. Throws what
  /// dialling them does.
  Upstream(NextNodes nodes, Policy policy, const WireModelId& model, int stage, Log log);

  /// Takes the request, which then leads to exactly one Settled before its answer_by, and returns
  /// kNone; or says why not, and it is still the caller's.
  [[nodiscard]] Reason hand_on(Request& request, Clock::time_point now);
  /// What hand_on() would say, to be asked before the tensor is encoded.
  Reason obstacle(Clock::time_point answer_by, Clock::time_point now) const;

  /// Asks about a sample whose own verdict has left already: one such request at a time, to a node
  /// that has room to spare, and called back before it is in another's way. It has no Settled, is
  /// never tried again and says nothing about the node. False: not now, nothing was sent.
  bool audit(Request request, Clock::time_point now);
  bool auditing() const { return audit_.has_value(); }
  /// What came of it, once.
  std::optional<Audited> take_audited() { return std::exchange(audited_, std::nullopt); }

  /// Appends the requests that have come to their end.
  void service(Clock::time_point now, std::vector<Settled>& settled);
  /// Nobody waits for it any more: no Settled will come. False when there is no such request.
  bool cancel(std::uint64_t ticket);
  /// Appends own answers for all requests that are away.
  void give_up(Reason reason, Clock::time_point now, std::vector<Settled>& settled);

  /// Appends what to wait on; service() is due when one of them is readable, and at due().
  void waitables(std::vector<Waitable>& out) const { replicas_.waitables(out); }
  Clock::time_point due() const;

  /// There is no next tier at all.
  bool none() const { return replicas_.empty(); }
  /// Whether one that is up takes pictures.
  bool takes_pictures() const { return replicas_.any_takes_pictures(); }
  bool up() const { return replicas_.any(LinkState::kUp); }
  /// True when nothing but an answer would make room for one more.
  bool full(Clock::time_point now) const { return replicas_.full(now); }
  /// For messages: "tcp://edge-1:5555, tcp://edge-2:5555".
  std::string endpoints() const { return replicas_.endpoints(); }
  std::size_t away() const { return away_.size(); }
  /// Of a request that is away; max() when none is.
  Clock::time_point earliest_deadline() const;

  /// The refusal that left no node to talk to, once: the caller's to tell.
  std::optional<LinkRefused> take_refusal() { return std::exchange(refusal_, std::nullopt); }

  /// Answers that came too late, or twice, and were dropped.
  std::uint64_t unmatched() const { return unmatched_; }
  std::vector<LinkStatus> links(Clock::time_point now) const { return replicas_.status(now); }

 private:
  /// A request sent to a node.
  struct Attempt {
    std::uint64_t replica = 0;
    bool probe = false;  ///< of its breaker
    Clock::time_point sent{};
  };
  struct Away {
    Request request;
    std::uint8_t number = 0;  ///< of the attempt
    Attempt attempt{};
    std::optional<std::uint64_t> before{};  ///< the replica that the first attempt went to
    Clock::time_point submitted{};
    DType dtype = DType::kNone;
  };
  struct Audit {
    RequestId id{};
    std::uint64_t replica = 0;
    Decision given;
    std::uint32_t sent_bytes = 0;
    Clock::time_point until{};
  };
  using Entry = std::map<RequestId, Away>::iterator;

  /// What may be used of the time that is left.
  Clock::duration usable(Clock::time_point answer_by, Clock::time_point now) const;
  Replica* choose(const Request& request, Clock::time_point now, const Replica* except);
  bool submit(const RequestId& id, Request& request, DType dtype, std::uint8_t attempt,
              Replica& replica, Clock::time_point now);
  bool send(const RequestId& id, Away& away, Replica& replica, Clock::time_point now);
  bool try_again(Entry entry, Clock::time_point now);

  void handle(Replica& replica, LinkEvent event, Clock::time_point now,
              std::vector<Settled>& settled);
  void answered(Replica& replica, Verdict verdict, Clock::time_point now,
                std::vector<Settled>& settled);
  void refused(Replica& replica, const Fault& fault, Clock::time_point now,
               std::vector<Settled>& settled);
  void lost(Replica& replica, const LinkDown& down, Clock::time_point now,
            std::vector<Settled>& settled);
  void call_back(Entry entry);
  bool is_audit(const Replica& replica, const RequestId& id) const;
  void end_audit(std::optional<Verdict> check);
  void call_back_audit();
  void settle_own(Entry entry, Reason reason, Clock::time_point now, std::vector<Settled>& settled);
  Away take(Entry entry);
  void say(LogLevel level, const std::string& line) const {
    if (log_) log_(level, line);
  }

  Policy policy_;
  WireModelId model_;
  int stage_;
  Log log_;
  Replicas replicas_;
  RetryBudget retries_;
  std::uint64_t session_;  ///< of this tier's own request ids
  std::uint64_t next_request_ = 0;
  std::map<RequestId, Away> away_;
  std::set<std::pair<Clock::time_point, RequestId>> deadlines_;
  std::map<std::uint64_t, RequestId> tickets_;
  std::optional<Audit> audit_;
  std::optional<Audited> audited_;
  RequestId last_audit_{};  ///< an answer to it may come after it was called back
  std::optional<LinkRefused> refusal_;
  std::uint64_t unmatched_ = 0;
};

}  // namespace offramp
