#include "tools/metrics_text.h"

#include <prometheus/text_serializer.h>

#include <cmath>
#include <utility>

#include "tools/command.h"

namespace offramp::cli {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

class Families {
 public:
  /// Begins a family; the samples that follow belong to it.
  Families& begin(const std::string& name, MetricType type, const std::string& help) {
    families_.push_back({.name = "offramp_" + name, .help = help, .type = type, .metric = {}});
    return *this;
  }
  Families& add(Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = metric.gauge.value = value;
    families_.back().metric.push_back(std::move(metric));
    return *this;
  }
  Families& add(Labels labels, std::uint64_t value) {
    return add(std::move(labels), static_cast<double>(value));
  }
  /// What was observed, times `unit`.
  Families& add(Labels labels, const HistogramCounts& counts, double unit) {
    ClientMetric metric;
    metric.label = std::move(labels);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < counts.counts.size(); ++i) {
      sum += counts.counts[i];
      const double bound = i < counts.bounds.size() ? counts.bounds[i] * unit : INFINITY;
      metric.histogram.bucket.push_back({.cumulative_count = sum, .upper_bound = bound});
    }
    metric.histogram.sample_count = sum;
    metric.histogram.sample_sum = counts.sum * unit;
    families_.back().metric.push_back(std::move(metric));
    return *this;
  }

  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  std::vector<MetricFamily> families_;
};

constexpr double kMicrosecond = 1e-6;

void add_requests(Families& families, const TelemetrySnapshot& now, const NodeIdentity& identity) {
  const NodeCounters& sums = now.counters;
  families.begin("requests_total", MetricType::Counter, "Requests that were accepted")
      .add({}, sums.requests);
  families.begin("answers_total", MetricType::Counter,
                 "Answers by the exit that gave them; ok, or the reason why it was not the whole "
                 "cascade's");
  for (std::size_t exit = 0; exit < now.answers.size(); ++exit) {
    for (std::size_t i = 0; i < kReasonCount; ++i)
      families.add(
          {{"exit", identity.exits.at(exit)}, {"reason", reason_name(static_cast<Reason>(i))}},
          now.answers[exit][i]);
  }
  families.begin("faults_total", MetricType::Counter, "Requests and greetings that got an error");
  for (std::size_t i = 1; i < kFaultCodeCount; ++i)
    families.add({{"code", fault_name(static_cast<FaultCode>(i))}}, now.faults[i]);
  const AuditCounts& audits = now.audits;
  families
      .begin("audit_asked_total", MetricType::Counter,
             "Requests that this node was sure of and has handed on all the same")
      .add({}, audits.asked);
  families
      .begin("audit_checked_total", MetricType::Counter,
             "Of these, those that a later exit has answered; with the same class or another")
      .add({{"agrees", "yes"}}, audits.agreed)
      .add({{"agrees", "no"}}, audits.checked - audits.agreed);
  families.begin("audit_sent_bytes_total", MetricType::Counter, "Sent to the next tier to ask them")
      .add({}, audits.sent_bytes);
  families
      .begin("audit_right_total", MetricType::Counter,
             "Sum of the probabilities that the later exit gives to this node's class: over "
             "audit_checked_total, an estimate of its accuracy")
      .add({}, audits.right);
  families.begin("handed_on_total", MetricType::Counter, "Requests handed to the next tier")
      .add({}, sums.forwarded);
  families.begin("expired_total", MetricType::Counter, "Requests whose time ran out in the queue")
      .add({}, sums.expired);
  families
      .begin("cancelled_total", MetricType::Counter, "Requests that their peers took back in time")
      .add({}, sums.cancelled);
  families
      .begin("struck_out_total", MetricType::Counter,
             "Connections that are not heard after three malformed messages")
      .add({}, sums.struck_out);
  families.begin("undeliverable_total", MetricType::Counter, "Messages to peers that had gone")
      .add({}, sums.undeliverable);
  families.begin("unmatched_total", MetricType::Counter, "Answers of the next tier that came late")
      .add({}, sums.unmatched);
  families.begin("malformed_total", MetricType::Counter, "Messages that made no sense");
  for (std::size_t i = 0; i < kMalformedCount; ++i)
    families.add({{"reason", malformed_name(static_cast<Malformed>(i))}}, sums.malformed[i]);
  families.begin("denied_total", MetricType::Counter, "Connections and messages not let in");
  for (std::size_t i = 0; i < kDenialCount; ++i)
    families.add({{"reason", denial_name(static_cast<Denial>(i))}}, sums.denied[i]);
}

void add_distributions(Families& families, const TelemetrySnapshot& now,
                       const NodeIdentity& identity) {
  families
      .begin("latency_seconds", MetricType::Histogram,
             "Of answers, in this node: queue, stages and waiting for the next tier")
      .add({}, now.latency_us, kMicrosecond);
  families.begin("queue_seconds", MetricType::Histogram, "From a request's arrival to a worker")
      .add({}, now.queue_us, kMicrosecond);
  families.begin("compute_seconds", MetricType::Histogram, "A request in this node's stages")
      .add({}, now.compute_us, kMicrosecond);
  families.begin("batch_size", MetricType::Histogram, "Requests that a worker ran at once")
      .add({}, now.batch, 1.0);
  families.begin("entropy", MetricType::Histogram,
                 "Normalised entropy of what this node's exits said");
  for (std::size_t exit = 0; exit < now.entropy.size(); ++exit)
    families.add({{"exit", identity.exits.at(exit)}}, now.entropy[exit], 1.0);
}

void add_traffic(Families& families, const std::string& direction, const std::string& what,
                 const TrafficTable& table) {
  const auto each = [&](auto value) {
    for (std::size_t dtype = 1; dtype < kDTypeCount; ++dtype) {
      for (std::size_t codec = 0; codec < kCodecCount; ++codec)
        families.add({{"dtype", dtype_name(static_cast<DType>(dtype))},
                      {"codec", static_cast<Codec>(codec) == Codec::kLz4 ? "lz4" : "raw"}},
                     value(table[dtype][codec]));
    }
  };
  families.begin(direction + "_tensors_total", MetricType::Counter, "Tensors " + what);
  each([](const Traffic& traffic) { return traffic.tensors; });
  families.begin(direction + "_bytes_total", MetricType::Counter,
                 "Payload bytes of tensors " + what);
  each([](const Traffic& traffic) { return traffic.bytes; });
}

void add_links(Families& families, const std::vector<LinkStatus>& links) {
  const auto gauge = [&](const char* name, const char* help, auto value) {
    families.begin(name, MetricType::Gauge, help);
    for (const LinkStatus& link : links) families.add({{"peer", link.endpoint}}, value(link));
  };
  // One series a state, of which one is 1: so a state can be counted and alerted on.
  families.begin("link_state", MetricType::Gauge,
                 "1 for the state that a link to the next tier has");
  for (const LinkStatus& link : links) {
    for (std::size_t i = 0; i < kLinkStateCount; ++i) {
      const auto state = static_cast<LinkState>(i);
      families.add({{"peer", link.endpoint}, {"state", link_state_name(state)}},
                   link.state == state ? 1.0 : 0.0);
    }
  }
  families.begin("link_breaker", MetricType::Gauge, "1 for the state that a link's breaker has");
  for (const LinkStatus& link : links) {
    for (std::size_t i = 0; i < kBreakerStateCount; ++i) {
      const auto state = static_cast<BreakerState>(i);
      families.add({{"peer", link.endpoint}, {"state", breaker_name(state)}},
                   link.breaker == state ? 1.0 : 0.0);
    }
  }
  gauge("link_away", "Requests that the peer has now",
        [](const LinkStatus& link) { return static_cast<double>(link.away); });
  gauge("link_window", "Requests that the peer may have at once",
        [](const LinkStatus& link) { return static_cast<double>(link.window); });
  gauge("link_service_seconds", "Time that the peer takes for a request; 0: not yet known",
        [](const LinkStatus& link) {
          return static_cast<double>(link.service.count()) * kMicrosecond;
        });
  gauge("link_round_trip_seconds", "Smoothed time to the peer and back; 0: not yet known",
        [](const LinkStatus& link) {
          return static_cast<double>(link.round_trip.count()) * kMicrosecond;
        });
  const auto counter = [&](const char* name, const char* help, auto value) {
    families.begin(name, MetricType::Counter, help);
    for (const LinkStatus& link : links) families.add({{"peer", link.endpoint}}, value(link));
  };
  counter("link_sent_total", "Requests sent to the peer, second attempts included",
          [](const LinkStatus& link) { return link.sent; });
  counter("link_answered_total", "Requests that the peer answered in time",
          [](const LinkStatus& link) { return link.answered; });
  counter("link_failed_total", "Requests that the peer refused, lost or answered late",
          [](const LinkStatus& link) { return link.failed; });
  counter("link_retried_total", "Failed requests that another peer got",
          [](const LinkStatus& link) { return link.retried; });
}

void add_state(Families& families, const TelemetrySnapshot& now) {
  const auto gauge = [&](const char* name, const char* help, double value) {
    families.begin(name, MetricType::Gauge, help).add({}, value);
  };
  gauge("queue_depth", "Requests that wait for a worker", static_cast<double>(now.load.queued));
  gauge("in_work", "Requests that wait for a worker or are being computed",
        static_cast<double>(now.load.in_work));
  gauge("away", "Requests that the next tier has", static_cast<double>(now.load.away));
  gauge("sessions", "Peers with a session", static_cast<double>(now.load.sessions));
  gauge("draining", "1 once the node is stopping", now.draining ? 1.0 : 0.0);
  gauge("loop_silent_seconds", "Since the node's loop last turned",
        static_cast<double>(now.loop_silent.count()) / 1e3);
  gauge("workers_silent_seconds", "Since the workers have owed a sign of life; 0: they owe none",
        static_cast<double>(now.workers_silent.count()) / 1e3);
}

}  // namespace

std::string metrics_text(const TelemetrySnapshot& snapshot, const NodeIdentity& identity) {
  Families families;
  families.begin("info", MetricType::Gauge, "What runs here")
      .add({{"version", kVersion},
            {"tier", identity.tier},
            {"model", identity.model},
            {"model_id", identity.model_id}},
           1.0);
  add_requests(families, snapshot, identity);
  add_distributions(families, snapshot, identity);
  add_traffic(families, "received", "taken from peers", snapshot.received);
  add_traffic(families, "sent", "handed to the next tier", snapshot.sent);
  add_links(families, snapshot.links);
  add_state(families, snapshot);
  return families.text();
}

}  // namespace offramp::cli
