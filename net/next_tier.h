// The requests that a node has handed to its next tier, and the way back of their answers: that
// tier's when it comes, the node's own, marked with the reason, when the tier is absent, lost or
// late.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "net/batch_runner.h"
#include "net/channel.h"
#include "net/log.h"
#include "net/telemetry.h"

namespace offramp {

/// A verdict and where it goes.
struct Answer {
  Peer peer;
  Verdict verdict;
};

/// Each request that hand_on() takes leads to exactly one Answer, before its answer_by, unless it
/// is forgotten.
class NextTier {
 public:
  /// `channel` is null when there is no next tier; otherwise it leads to the one whose first stage
  /// is `stage`.
  NextTier(std::unique_ptr<Channel> channel, const WireModelId& model, int stage, Log log);

  /// Gives the sample to the next tier, keeps `own` for the worst case and returns kNone; or says
  /// why it cannot, and `own` is still the caller's.
  [[nodiscard]] Reason hand_on(Verdict& own, Done& done, Clock::time_point now);

  /// Nobody waits for this answer any more. False when the request is not away.
  bool forget(const Peer& peer, const RequestId& request);

  /// Appends the answers that have come or may be waited for no longer.
  void service(Clock::time_point now, std::vector<Answer>& answers);

  /// Appends own answers for all requests that are away.
  void give_up(Reason reason, Clock::time_point now, std::vector<Answer>& answers);

  /// Appends what to wait on; service() is due when one of them is readable, and at due().
  void waitables(std::vector<Waitable>& out) const;
  Clock::time_point due() const;

  std::size_t away() const { return away_.size(); }
  /// Answers that came too late, or twice, and were dropped.
  std::uint64_t unmatched() const { return unmatched_; }
  /// How the link stands; empty when there is no next tier.
  std::vector<LinkStatus> links() const;

 private:
  struct Away {
    Peer peer;
    Verdict own;  ///< what this node answers if nothing better comes
    Clock::time_point submitted, answer_by;
  };
  using Request = std::map<RequestId, Away>::iterator;

  Answer own_answer(Request request, Reason reason, Clock::time_point now);
  Answer better_answer(Request request, Verdict verdict, Clock::time_point now);
  void handle(LinkEvent event, Clock::time_point now, std::vector<Answer>& answers);
  void say(LogLevel level, const std::string& line) const {
    if (log_) log_(level, line);
  }

  std::unique_ptr<Channel> channel_;
  WireModelId model_;
  int stage_;
  Log log_;
  std::uint64_t session_;  ///< of this node's own request ids
  std::uint64_t next_request_ = 0;
  std::map<RequestId, Away> away_;
  std::uint64_t unmatched_ = 0;
};

}  // namespace offramp
