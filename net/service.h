// What a node does with each message, result and answer, and how it comes to an end. The loop in
// net/node.cpp calls it from one thread.
//
//   INFER  -> Credits, Admission -> Workers -> sure: RESULT
//                                           -> not sure: NextTier -> RESULT
//   HELLO, PING -> Workers -> WELCOME, PONG: they prove that the workers are alive
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "net/admission.h"
#include "net/credits.h"
#include "net/fronts.h"
#include "net/next_tier.h"
#include "net/node.h"
#include "net/sessions.h"
#include "net/workers.h"

namespace offramp {

class Service {
 public:
  /// Starts the workers. `stages` are all of the model's; they, `admission`, `fronts` and
  /// `telemetry` outlive this. `options` have been checked. Throws Error{kSystem}.
  Service(std::span<const Stage> stages, const Admission& admission, const WireModelId& model,
          const NodeOptions& options, NextNodes next, Fronts& fronts, Telemetry& telemetry,
          Log log);

  /// Something came from a peer.
  void take(const Peer& peer, std::variant<Message, Malformed> received, Clock::time_point now);
  /// Answers with what the workers and the next tier have returned, and what is due.
  void take_results(Clock::time_point now);
  /// Forgets silent peers, and tells the others of windows that have changed.
  void review_sessions(Clock::time_point now);
  /// Tells the telemetry how things stand, and asks the workers for a sign of life when that is
  /// due.
  void report(Clock::time_point now);

  /// Appends what to wait on; take_results() is due when one of them is readable, and at due().
  void waitables(std::vector<Waitable>& out) const;
  Clock::time_point due(Clock::time_point now) const;

  /// Tells all peers; from now on nothing new is taken.
  void begin_drain(Clock::time_point now);
  bool draining() const { return draining_; }
  /// True when all peers have all their answers, or there is no time left for them.
  bool drained(Clock::time_point now) const;
  /// Counts what was not answered.
  void end_drain();

 private:
  bool out_of_time(Clock::time_point now) const;
  /// Why one more request of `peer` is not taken; null when it is.
  const char* no_room(const Peer& peer, const Session& session, const Handoff& handoff,
                      Clock::time_point now);
  /// A request of `peer` has got its answer, or none will come.
  void leave(const Peer& peer);

  void handle(const Peer& peer, Message message, Clock::time_point now);
  void handle(const Peer& peer, const Hello& hello, Clock::time_point now);
  void handle(const Peer& peer, Session& session, const Handoff& handoff, Clock::time_point now);
  void handle(const Peer& peer, const Cancel& cancel);
  void handle(const Peer& peer, Malformed reason, Clock::time_point now);
  void knock(const Peer& peer, const std::variant<Hello, Ping, Probe>& message,
             Clock::time_point now);
  void finish(Knock knock, Clock::time_point now);
  void finish(Done done, Clock::time_point now);

  void answer(const Peer& peer, Verdict verdict);
  void answer(std::vector<Answer> answers);
  void fault(const Peer& peer, const RequestId& request, FaultCode code, std::string text);
  /// ERROR(OVERLOADED), and when to come back.
  void overloaded(const Peer& peer, const RequestId& request, std::string text);
  void send(const Peer& peer, Fault fault);
  void send(const Peer& peer, Message message);
  void say(LogLevel level, const std::string& line) const {
    if (log_) log_(level, line);
  }

  const Admission& admission_;
  WireModelId model_;
  Tier tier_;
  Policy policy_;
  std::chrono::milliseconds drain_;
  Fronts& fronts_;
  Telemetry& telemetry_;
  Log log_;
  Throttle refusals_;
  Sessions sessions_;
  Credits credits_;
  NextTier next_;
  Auditor auditor_;
  Workers workers_;

  std::size_t in_work_ = 0;  ///< requests that the workers have, waiting or running
  /// Requests of each peer that the workers or the next tier have.
  std::map<Peer, std::size_t> here_;
  bool draining_ = false;
  Clock::time_point drain_began_{};
  Clock::time_point last_exchange_{};  ///< a peer said something, or was answered
  bool probing_ = false;               ///< the workers owe a sign of life
  Clock::time_point next_probe_{}, next_link_report_{};
};

}  // namespace offramp
