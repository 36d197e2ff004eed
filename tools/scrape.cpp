#include "tools/scrape.h"

#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <sstream>
#include <stop_token>
#include <thread>
#include <utility>

#include "tools/output.h"

namespace offramp::cli {
namespace {

constexpr std::chrono::milliseconds kPatience{1000};
constexpr std::size_t kMostBytes = std::size_t{4} << 20;
constexpr std::size_t kMostOfAReason = 200;  // bytes

struct Page {
  int status = 0;
  std::string body;
  std::string problem;  ///< why there is none
};

/// Ends what a client does once it is connected when its time is over, whatever comes until then.
class Deadline {
 public:
  Deadline(httplib::Client& client, std::chrono::milliseconds time)
      : watch_([this, &client, time](const std::stop_token& done) {
          std::unique_lock lock(mutex_);
          ended_.wait_for(lock, done, time, [] { return false; });
          if (done.stop_requested()) return;
          passed_ = true;
          client.stop();
        }) {}

  bool passed() const { return passed_; }

 private:
  std::atomic<bool> passed_{false};
  std::mutex mutex_;
  std::condition_variable_any ended_;
  std::jthread watch_;
};

/// Within about two seconds, and what the system takes to look up a name.
Page get(const HttpAddress& address, const std::string& path) {
  httplib::Client client(address.host, address.port);
  client.set_connection_timeout(kPatience);
  client.set_read_timeout(kPatience);
  client.set_write_timeout(kPatience);
  Page page;
  const Deadline deadline(client, 2 * kPatience);
  const httplib::Result result = client.Get(path, [&](const char* data, std::size_t size) {
    page.body.append(data, size);
    return page.body.size() <= kMostBytes;
  });
  // What ends with the connection, as an answer without a length, is whole only if it ended by
  // itself.
  if (result && !deadline.passed())
    page.status = result->status;
  else
    page.problem = result.error() == httplib::Error::Connection ? "unreachable" : "no answer";
  return page;
}

/// `{a="b",c="d"}` from text[at]; leaves `at` behind it. False when it is not that.
bool read_labels(const std::string& text, std::size_t& at, Metrics::Labels& labels) {
  while (true) {
    ++at;  // the brace, or a comma
    if (at < text.size() && text[at] == '}') break;
    const std::size_t equals = text.find("=\"", at);
    if (equals == std::string::npos) return false;
    const std::string name = text.substr(at, equals - at);
    std::string value;
    for (at = equals + 2; at < text.size() && text[at] != '"'; ++at) {
      if (text[at] != '\\') {
        value += text[at];
      } else if (++at < text.size()) {
        value += text[at] == 'n' ? '\n' : text[at];
      }
    }
    labels[harmless(name)] = harmless(value);
    ++at;
    if (at >= text.size()) return false;
    if (text[at] == '}') break;
  }
  ++at;
  return true;
}

std::optional<double> read_value(std::string text) {
  text.erase(0, text.find_first_not_of(' '));
  text = text.substr(0, text.find(' '));
  if (text == "+Inf" || text == "Inf") return std::numeric_limits<double>::infinity();
  double value = 0.0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || rest != text.data() + text.size()) return {};
  return value;
}

/// Cumulative counts of a histogram without labels, by upper bound.
std::map<double, double> buckets_of(const Metrics& metrics, const std::string& histogram) {
  std::map<double, double> buckets;
  for (const Metrics::Sample& sample : metrics.of(histogram + "_bucket")) {
    const auto bound = sample.labels.find("le");
    if (bound == sample.labels.end()) continue;
    if (const auto value = read_value(bound->second)) buckets[*value] = sample.value;
  }
  return buckets;
}

/// In one pass over each metric, however many links a page has.
std::vector<TierView::Link> links_of(const Metrics& metrics) {
  std::vector<TierView::Link> links;
  std::map<std::string, std::size_t> index;  // of each peer in `links`
  const auto each = [&](const char* name, auto&& take) {
    for (const Metrics::Sample& sample : metrics.of(name)) {
      const auto peer = sample.labels.find("peer");
      if (peer == sample.labels.end()) continue;
      const auto [at, is_new] = index.try_emplace(peer->second, links.size());
      if (is_new) links.push_back({.peer = peer->second, .state = "unknown", .breaker = "unknown"});
      take(links[at->second], sample);
    }
  };
  const auto current = [](std::string TierView::Link::*member) {
    return [member](TierView::Link& link, const Metrics::Sample& sample) {
      const auto state = sample.labels.find("state");
      if (sample.value == 1.0 && state != sample.labels.end()) link.*member = state->second;
    };
  };
  const auto value = [](double TierView::Link::*member, double unit) {
    return [member, unit](TierView::Link& link, const Metrics::Sample& sample) {
      link.*member = unit * sample.value;
    };
  };
  each("offramp_link_away", value(&TierView::Link::away, 1.0));
  each("offramp_link_window", value(&TierView::Link::window, 1.0));
  each("offramp_link_round_trip_seconds", value(&TierView::Link::round_trip_us, 1e6));
  each("offramp_link_state", current(&TierView::Link::state));
  each("offramp_link_breaker", current(&TierView::Link::breaker));
  return links;
}

}  // namespace

Metrics Metrics::parse(const std::string& text) {
  Metrics metrics;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.empty() || line.front() == '#') continue;
    std::size_t at = std::min(line.find_first_of("{ "), line.size());
    const std::string name = line.substr(0, at);
    Sample sample;
    if (at < line.size() && line[at] == '{' && !read_labels(line, at, sample.labels)) continue;
    const std::optional<double> value = read_value(line.substr(at));
    if (!value || !std::isfinite(*value) || *value < 0.0) continue;
    sample.value = *value;
    metrics.samples_[name].push_back(std::move(sample));
  }
  return metrics;
}

const std::vector<Metrics::Sample>& Metrics::of(const std::string& name) const {
  static const std::vector<Sample> none;
  const auto found = samples_.find(name);
  return found == samples_.end() ? none : found->second;
}

double Metrics::sum(const std::string& name, const Labels& labels) const {
  double sum = 0.0;
  for (const Sample& sample : of(name)) {
    if (std::ranges::includes(sample.labels, labels)) sum += sample.value;
  }
  return sum;
}

std::string Metrics::label(const std::string& name, const std::string& label) const {
  const std::vector<Sample>& all = of(name);
  if (all.empty()) return {};
  const auto found = all.front().labels.find(label);
  return found == all.front().labels.end() ? std::string() : found->second;
}

std::uint64_t whole_count(double value) {
  constexpr double kMost = 1e18;
  return static_cast<std::uint64_t>(std::clamp(value, 0.0, kMost));
}

std::optional<double> percentile(const Metrics& before, const Metrics& now,
                                 const std::string& histogram, double share) {
  std::map<double, double> buckets = buckets_of(now, histogram);
  for (const auto& [bound, count] : buckets_of(before, histogram)) {
    if (const auto found = buckets.find(bound); found != buckets.end()) found->second -= count;
  }
  const double all = buckets.empty() ? 0.0 : buckets.rbegin()->second;
  if (!(all > 0.0)) return {};
  double below = 0.0, lower = 0.0;
  for (const auto& [bound, count] : buckets) {
    if (count >= share * all && count > below) {
      // Beyond the last bound nothing is known but that.
      if (std::isinf(bound)) return lower;
      return lower + (bound - lower) * (share * all - below) / (count - below);
    }
    below = count;
    lower = bound;
  }
  return lower;
}

Reading fetch(const HttpAddress& address) {
  Reading reading{.when = std::chrono::steady_clock::now(), .metrics = {}, .problem = {}};
  const Page page = get(address, "/metrics");
  if (!page.problem.empty())
    reading.problem = page.problem;
  else if (page.status != 200)
    reading.problem = "status " + std::to_string(page.status);
  else
    reading.metrics = Metrics::parse(page.body);
  if (reading.metrics && reading.metrics->of("offramp_info").empty()) {
    reading.metrics.reset();
    reading.problem = "not a node";
  }
  return reading;
}

std::string fetch_health(const HttpAddress& address, const std::string& path) {
  Page page = get(address, path);
  if (!page.problem.empty()) return page.problem;
  if (page.status == 200) return {};
  const std::string line = page.body.substr(0, std::min(page.body.find('\n'), kMostOfAReason));
  return line.empty() ? "status " + std::to_string(page.status) : line;
}

TierView view_of(const HttpAddress& address, const Reading& before, const Reading& now) {
  TierView view;
  view.address = to_string(address);
  view.state = now.problem;
  view.reached = now.metrics.has_value();
  if (!now.metrics) return view;
  const Metrics& metrics = *now.metrics;
  const auto all = [&](const char* name) { return metrics.sum(name); };
  view.tier = metrics.label("offramp_info", "tier");
  view.model = metrics.label("offramp_info", "model");
  view.state = all("offramp_draining") > 0.0 ? "draining" : "up";
  view.answers = all("offramp_answers_total");
  view.faults = all("offramp_faults_total");
  view.expired = all("offramp_expired_total");
  view.malformed = all("offramp_malformed_total");
  view.denied = all("offramp_denied_total");
  view.audits = {
      .asked = whole_count(all("offramp_audit_asked_total")),
      .checked = whole_count(all("offramp_audit_checked_total")),
      .agreed = whole_count(metrics.sum("offramp_audit_checked_total", {{"agrees", "yes"}})),
      .right = all("offramp_audit_right_total"),
      .sent_bytes = whole_count(all("offramp_audit_sent_bytes_total"))};
  view.queue = all("offramp_queue_depth");
  view.in_work = all("offramp_in_work");
  view.away = all("offramp_away");
  view.sessions = all("offramp_sessions");
  for (const Metrics::Sample& sample : metrics.of("offramp_answers_total")) {
    if (sample.value == 0.0) continue;
    view.by_exit[sample.labels.contains("exit") ? sample.labels.at("exit") : ""] += sample.value;
    view.by_reason[sample.labels.contains("reason") ? sample.labels.at("reason") : ""] +=
        sample.value;
  }
  view.links = links_of(metrics);

  // A tier that has started again counts from 0.
  const bool goes_on =
      before.metrics && before.metrics->sum("offramp_answers_total") <= view.answers;
  const Metrics& base = goes_on ? *before.metrics : Metrics();
  const double seconds = std::chrono::duration<double>(now.when - before.when).count();
  const double answered = view.answers - base.sum("offramp_answers_total");
  if (goes_on && seconds > 0.0) view.rate = answered / seconds;
  // In a quiet moment, what holds for all there has been.
  const Metrics nothing;
  const Metrics& since = answered > 0.0 ? base : nothing;
  const auto change = [&](const std::string& name, const Metrics::Labels& labels = {}) {
    return metrics.sum(name, labels) - since.sum(name, labels);
  };
  const double shown = change("offramp_answers_total");
  if (shown > 0.0)
    view.degraded = 1.0 - change("offramp_answers_total", {{"reason", "ok"}}) / shown;
  const auto microseconds = [](std::optional<double> time) {
    return time ? std::optional(*time * 1e6) : std::nullopt;
  };
  view.p50_us = microseconds(percentile(since, metrics, "offramp_latency_seconds", 0.5));
  view.p99_us = microseconds(percentile(since, metrics, "offramp_latency_seconds", 0.99));
  const double batches = change("offramp_batch_size_count");
  if (batches > 0.0) view.batch = change("offramp_batch_size_sum") / batches;
  return view;
}

}  // namespace offramp::cli
