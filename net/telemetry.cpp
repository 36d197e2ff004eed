#include "net/telemetry.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace offramp {
namespace {

// Four a decade, so that a percentile read from them is off by less than half of itself.
constexpr double kLatencyBoundsUs[] = {50,     100,   180,   320,   560,   1000,   1800,   3200,
                                       5600,   10000, 18000, 32000, 56000, 100000, 180000, 320000,
                                       560000, 1.0e6, 1.8e6, 3.2e6, 5.6e6, 1.0e7};
constexpr double kEntropyBounds[] = {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3,
                                     0.4,  0.5,  0.6,  0.7, 0.8,  0.9, 1.0};
constexpr double kBatchBounds[] = {1, 2, 4, 8, 16, 32, 64};

std::chrono::milliseconds since(Clock::rep then, Clock::time_point now) {
  const Clock::duration elapsed = now.time_since_epoch() - Clock::duration(then);
  return std::max(std::chrono::milliseconds{0},
                  std::chrono::duration_cast<std::chrono::milliseconds>(elapsed));
}

}  // namespace

std::span<const double> latency_bounds_us() { return kLatencyBoundsUs; }
std::span<const double> entropy_bounds() { return kEntropyBounds; }
std::span<const double> batch_bounds() { return kBatchBounds; }

const char* breaker_name(BreakerState state) {
  switch (state) {
    case BreakerState::kClosed:
      return "closed";
    case BreakerState::kOpen:
      return "open";
    case BreakerState::kHalfOpen:
      return "half-open";
  }
  return "unknown";
}

const char* link_state_name(LinkState state) {
  switch (state) {
    case LinkState::kConnecting:
      return "connecting";
    case LinkState::kUp:
      return "up";
    case LinkState::kDraining:
      return "draining";
    case LinkState::kDown:
      return "down";
    case LinkState::kMismatched:
      return "mismatched";
  }
  return "unknown";
}

void Histogram::observe(double value) {
  const auto bucket = std::isnan(value) ? bounds_.end() : std::ranges::lower_bound(bounds_, value);
  counts_[static_cast<std::size_t>(bucket - bounds_.begin())].fetch_add(1,
                                                                        std::memory_order_relaxed);
  if (!std::isnan(value)) sum_.fetch_add(value, std::memory_order_relaxed);
}

HistogramCounts Histogram::counts() const {
  HistogramCounts result{.bounds = bounds_, .counts = {}, .sum = sum_.load()};
  for (const auto& count : counts_) result.counts.push_back(count.load(std::memory_order_relaxed));
  return result;
}

Telemetry::Telemetry(std::size_t exits)
    : answers_(exits),
      latency_us_(kLatencyBoundsUs),
      queue_us_(kLatencyBoundsUs),
      compute_us_(kLatencyBoundsUs),
      batch_(kBatchBounds),
      last_turn_(Clock::now().time_since_epoch().count()) {
  for (std::size_t i = 0; i < exits; ++i) entropy_.emplace_back(kEntropyBounds);
}

void Telemetry::add(TrafficCounts& counts, DType dtype, Codec codec, std::size_t bytes) {
  TrafficCount& count =
      counts.at(static_cast<std::size_t>(dtype)).at(static_cast<std::size_t>(codec));
  add(count.tensors);
  add(count.bytes, bytes);
}

void Telemetry::accepted(const WireTensor& tensor) {
  add(requests_);
  add(received_, tensor.dtype, tensor.codec, tensor.payload.size());
}

void Telemetry::computed(const Hop& hop, const Decision& decision) {
  compute_us_.observe(hop.compute_us);
  entropy_.at(static_cast<std::size_t>(decision.exit))
      .observe(static_cast<double>(decision.entropy));
}

void Telemetry::handed_on(DType dtype, Codec codec, std::size_t payload_bytes) {
  add(forwarded_);
  add(sent_, dtype, codec, payload_bytes);
}

void Telemetry::answered(const Verdict& verdict) {
  add(answers_.at(static_cast<std::size_t>(verdict.decision.exit))
          .at(static_cast<std::size_t>(verdict.degraded)));
  if (!verdict.hops.empty()) latency_us_.observe(static_cast<double>(time_at_us(verdict.hops[0])));
}

void Telemetry::faulted(FaultCode code) { add(faults_.at(static_cast<std::size_t>(code))); }

void Telemetry::turned(Clock::time_point now) {
  last_turn_.store(now.time_since_epoch().count(), kRelaxed);
}

void Telemetry::workers_asked(Clock::time_point now) {
  workers_asked_.store(now.time_since_epoch().count(), kRelaxed);
}

void Telemetry::set(const Load& load) {
  queued_.store(load.queued, kRelaxed);
  in_work_.store(load.in_work, kRelaxed);
  away_.store(load.away, kRelaxed);
  sessions_.store(load.sessions, kRelaxed);
}

void Telemetry::set(std::vector<LinkStatus> links, const AuditCounts& audits) {
  // A reader that has just been put to sleep with the lock is not waited for: the next turn is
  // soon.
  const std::unique_lock lock(links_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  links_ = std::move(links);
  audits_ = audits;
}

TrafficTable Telemetry::read(const TrafficCounts& counts) {
  TrafficTable table{};
  for (std::size_t dtype = 0; dtype < kDTypeCount; ++dtype) {
    for (std::size_t codec = 0; codec < kCodecCount; ++codec) {
      const TrafficCount& count = counts[dtype][codec];
      table[dtype][codec] = {.tensors = count.tensors.load(kRelaxed),
                             .bytes = count.bytes.load(kRelaxed)};
    }
  }
  return table;
}

NodeCounters Telemetry::counters() const {
  NodeCounters counters{.requests = requests_.load(kRelaxed),
                        .forwarded = forwarded_.load(kRelaxed),
                        .expired = expired_.load(kRelaxed),
                        .cancelled = cancelled_.load(kRelaxed),
                        .undeliverable = undeliverable_.load(kRelaxed),
                        .unmatched = unmatched_.load(kRelaxed),
                        .unanswered = unanswered_.load(kRelaxed)};
  for (const auto& by_reason : answers_) {
    for (std::size_t reason = 0; reason < kReasonCount; ++reason) {
      const std::uint64_t count = by_reason[reason].load(kRelaxed);
      counters.answers += count;
      if (static_cast<Reason>(reason) != Reason::kNone) counters.degraded += count;
    }
  }
  for (const std::uint64_t count : batch_.counts().counts) counters.batches += count;
  counters.struck_out = struck_out_.load(kRelaxed);
  for (const Count& count : faults_) counters.faults += count.load(kRelaxed);
  for (std::size_t i = 0; i < kMalformedCount; ++i)
    counters.malformed[i] = malformed_[i].load(kRelaxed);
  return counters;
}

TelemetrySnapshot Telemetry::snapshot(Clock::time_point now) const {
  TelemetrySnapshot snapshot;
  snapshot.counters = counters();
  for (const auto& by_reason : answers_) {
    auto& row = snapshot.answers.emplace_back();
    for (std::size_t i = 0; i < kReasonCount; ++i) row[i] = by_reason[i].load(kRelaxed);
  }
  for (std::size_t i = 0; i < kFaultCodeCount; ++i) snapshot.faults[i] = faults_[i].load(kRelaxed);
  snapshot.latency_us = latency_us_.counts();
  snapshot.queue_us = queue_us_.counts();
  snapshot.compute_us = compute_us_.counts();
  snapshot.batch = batch_.counts();
  for (const Histogram& histogram : entropy_) snapshot.entropy.push_back(histogram.counts());
  snapshot.received = read(received_);
  snapshot.sent = read(sent_);
  snapshot.load = {.queued = queued_.load(kRelaxed),
                   .in_work = in_work_.load(kRelaxed),
                   .away = away_.load(kRelaxed),
                   .sessions = sessions_.load(kRelaxed)};
  snapshot.draining = draining_.load(kRelaxed);
  snapshot.loop_silent = since(last_turn_.load(kRelaxed), now);
  const Clock::rep asked = workers_asked_.load(kRelaxed);
  if (asked != kNever) snapshot.workers_silent = since(asked, now);
  const std::lock_guard lock(links_mutex_);
  snapshot.links = links_;
  snapshot.audits = audits_;
  return snapshot;
}

}  // namespace offramp
