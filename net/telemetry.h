// What a node counts and measures of itself, for people and machines that watch it.
//
// The node's loop writes, one relaxed atomic at a time, and never waits for a reader; snapshot()
// and counters() may be called from any thread at any time. Each number is right by itself; two of
// them may be a moment apart.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "net/audit.h"
#include "net/channel.h"
#include "net/denials.h"
#include "net/message.h"
#include "net/poll.h"
#include "net/replica.h"

namespace offramp {

/// The sums that are told at a node's end.
struct NodeCounters {
  std::uint64_t requests = 0;       ///< INFER messages that were accepted
  std::uint64_t batches = 0;        ///< that the workers have computed
  std::uint64_t answers = 0;        ///< RESULT messages, all of them
  std::uint64_t forwarded = 0;      ///< handed to the next tier
  std::uint64_t degraded = 0;       ///< answers with a reason, the next tier's included
  std::uint64_t faults = 0;         ///< ERROR messages sent
  std::uint64_t expired = 0;        ///< dropped when they left the queue: too late to be of use
  std::uint64_t cancelled = 0;      ///< taken back by their peers, in time
  std::uint64_t undeliverable = 0;  ///< messages to peers that had gone
  std::uint64_t unmatched = 0;      ///< answers of the next tier that came too late
  std::uint64_t unanswered = 0;     ///< still being computed when the time to stop was over
  std::array<std::uint64_t, kMalformedCount> malformed{};  ///< dropped, by Malformed
  std::uint64_t struck_out = 0;  ///< connections that are not heard after three such messages
  DenialCounts denied{};         ///< connections and messages that were not let in, by Denial
};

/// Counts of what was observed, by upper bound.
struct HistogramCounts {
  std::span<const double> bounds;     ///< ascending; a value belongs to the first that is not below
  std::vector<std::uint64_t> counts;  ///< [bounds + 1], the last holds what exceeds all bounds
  double sum = 0.0;                   ///< of all that was observed
};

/// Fixed buckets that one thread fills while others read.
class Histogram {
 public:
  /// `bounds` ascend and outlive this.
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds), counts_(bounds.size() + 1) {}
  /// NaN counts as larger than all bounds, and is left out of the sum.
  void observe(double value);
  HistogramCounts counts() const;

 private:
  std::span<const double> bounds_;
  std::vector<std::atomic<std::uint64_t>> counts_;
  std::atomic<double> sum_{0.0};
};

/// The upper bounds of the histograms below.
std::span<const double> latency_bounds_us();  ///< 50 us to 10 s, four a decade
std::span<const double> entropy_bounds();     ///< 0.01 to 1
std::span<const double> batch_bounds();       ///< 1 to 64

const char* breaker_name(BreakerState state);  ///< "closed", "open", "half-open"
const char* link_state_name(LinkState state);  ///< "connecting", "up", ...
inline constexpr std::size_t kBreakerStateCount = 3;
inline constexpr std::size_t kLinkStateCount = 5;

/// What is in a node at this moment.
struct Load {
  std::size_t queued = 0;    ///< requests that wait for a worker
  std::size_t in_work = 0;   ///< that the workers have, waiting or running
  std::size_t away = 0;      ///< that the next tier has
  std::size_t sessions = 0;  ///< peers with a session
};

/// Tensors of one dtype and codec.
struct Traffic {
  std::uint64_t tensors = 0, bytes = 0;  ///< bytes of their payloads
};
using TrafficTable = std::array<std::array<Traffic, kCodecCount>, kDTypeCount>;  ///< [dtype][codec]

struct TelemetrySnapshot {
  NodeCounters counters;
  std::vector<std::array<std::uint64_t, kReasonCount>> answers;  ///< RESULTs by [exit][reason]
  std::array<std::uint64_t, kFaultCodeCount> faults{};           ///< ERRORs by FaultCode
  HistogramCounts latency_us;            ///< of answers: queue, stages and waiting for others
  HistogramCounts queue_us;              ///< from arrival to a worker, of all that left the queue
  HistogramCounts compute_us;            ///< in stages, a request
  HistogramCounts batch;                 ///< requests that a worker ran at once
  std::vector<HistogramCounts> entropy;  ///< of this node's own decisions, by exit
  TrafficTable received{}, sent{};       ///< tensors taken from peers, handed on
  Load load;
  std::vector<LinkStatus> links;  ///< to the next tier
  AuditCounts audits;             ///< of what the last exit here was sure of
  bool draining = false;
  std::chrono::milliseconds loop_silent{0};     ///< since the loop's last turn
  std::chrono::milliseconds workers_silent{0};  ///< since the workers have owed an answer
};

/// Written by the node's loop alone, except where it says otherwise.
class Telemetry {
 public:
  explicit Telemetry(std::size_t exits);

  // Requests.
  void accepted(const WireTensor& tensor);  ///< an INFER was taken; before its payload is moved
  void dequeued(std::uint32_t queue_us) { queue_us_.observe(queue_us); }
  /// The stages ran for one request of a batch, and this is what its last exit said.
  void computed(const Hop& hop, const Decision& decision);
  /// A worker ran this many requests at once.
  void batched(std::size_t size) { batch_.observe(static_cast<double>(size)); }
  void handed_on(DType dtype, Codec codec, std::size_t payload_bytes);
  void answered(const Verdict& verdict);  ///< its first hop is this node's
  void faulted(FaultCode code);
  void expired() { add(expired_); }
  void cancelled() { add(cancelled_); }

  // What went wrong.
  void malformed(Malformed reason) { add(malformed_[static_cast<std::size_t>(reason)]); }
  void struck_out() { add(struck_out_); }
  void undeliverable() { add(undeliverable_); }
  void set_unmatched(std::uint64_t sum) { unmatched_.store(sum, kRelaxed); }
  void set_unanswered(std::uint64_t sum) { unanswered_.store(sum, kRelaxed); }

  // State.
  void turned(Clock::time_point now);  ///< the loop did
  void workers_asked(Clock::time_point now);
  void workers_answered() { workers_asked_.store(kNever, kRelaxed); }
  void draining() { draining_.store(true, kRelaxed); }
  void set(const Load& load);
  void set(std::vector<LinkStatus> links, const AuditCounts& audits);

  /// From any thread; without what the gate has denied.
  TelemetrySnapshot snapshot(Clock::time_point now) const;
  NodeCounters counters() const;

 private:
  using Count = std::atomic<std::uint64_t>;
  struct TrafficCount {
    Count tensors{0}, bytes{0};
  };
  using TrafficCounts = std::array<std::array<TrafficCount, kCodecCount>, kDTypeCount>;
  static constexpr auto kRelaxed = std::memory_order_relaxed;
  static constexpr Clock::rep kNever = -1;

  static void add(Count& count, std::uint64_t n = 1) { count.fetch_add(n, kRelaxed); }
  static void add(TrafficCounts& counts, DType dtype, Codec codec, std::size_t bytes);
  static TrafficTable read(const TrafficCounts& counts);

  Count requests_{0}, forwarded_{0}, expired_{0}, cancelled_{0}, struck_out_{0}, undeliverable_{0},
      unmatched_{0}, unanswered_{0};
  std::vector<std::array<Count, kReasonCount>> answers_;  ///< [exits]
  std::array<Count, kFaultCodeCount> faults_{};
  std::array<Count, kMalformedCount> malformed_{};
  TrafficCounts received_{}, sent_{};
  Histogram latency_us_, queue_us_, compute_us_, batch_;
  std::deque<Histogram> entropy_;  ///< [exits]

  Count queued_{0}, in_work_{0}, away_{0}, sessions_{0};
  std::atomic<bool> draining_{false};
  std::atomic<Clock::rep> last_turn_;  ///< since the clock's epoch
  std::atomic<Clock::rep> workers_asked_{kNever};

  mutable std::mutex links_mutex_;  ///< guards what follows
  std::vector<LinkStatus> links_;
  AuditCounts audits_;
};

}  // namespace offramp
