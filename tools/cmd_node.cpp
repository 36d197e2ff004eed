// offramp node: the edge or the cloud as a process.

#include <unistd.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/cascade.h"
#include "engine/error.h"
#include "net/node.h"
#include "net/zmq_channel.h"
#include "tools/audits.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/descriptors.h"
#include "tools/key_options.h"
#include "tools/logger.h"
#include "tools/metrics_server.h"
#include "tools/next_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/port_file.h"
#include "tools/rule_options.h"
#include "tools/service_manager.h"
#include "tools/signals.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;

// Measured with the default model's last stage and 64 requests under way: what eight together cost
// the loop and the links is a quarter less than one by one; 16 and 32 save nothing more, and each
// answer waits for its whole batch. An edge has few requests at once, and answers them sooner.
constexpr int kEdgeBatch = 1, kCloudBatch = 8;
constexpr std::chrono::milliseconds kLongestBatchDelay{2};

/// The stages of a tier: the edge has the second, the cloud all that follow.
struct Share {
  int first = 0;
  int count = 0;
  bool last = false;
};

Share share_of(Tier tier, const Model& model) {
  const auto stages = static_cast<int>(model.graph.exits.size());
  const int needed = tier == Tier::kEdge ? 2 : 3;
  if (stages < needed) {
    throw Error(ErrorKind::kUsage,
                "--tier " + std::string(tier_name(tier)) + ": wanted a model with at least " +
                    std::to_string(needed) + " exits, found " + std::to_string(stages) + " in " +
                    model.name + (stages < 2 ? " (there is nothing to split)" : ""));
  }
  const int first = needed - 1;
  const int count = tier == Tier::kEdge ? 1 : stages - first;
  return {first, count, first + count == stages};
}

std::string counters_line(const NodeCounters& counters) {
  std::uint64_t malformed = 0;
  for (std::uint64_t count : counters.malformed) malformed += count;
  std::uint64_t denied = 0;
  std::string reasons;
  for (std::size_t i = 0; i < kDenialCount; ++i) {
    if (counters.denied[i] == 0) continue;
    denied += counters.denied[i];
    reasons += (reasons.empty() ? "" : ", ") + std::to_string(counters.denied[i]) + " " +
               denial_name(static_cast<Denial>(i));
  }
  const auto item = [](std::uint64_t count, const char* what) {
    return count == 0 ? std::string() : ", " + std::to_string(count) + " " + what;
  };
  return "stopped: " + std::to_string(counters.requests) + " requests, " +
         std::to_string(counters.answers) + " answers" + item(counters.forwarded, "handed on") +
         item(counters.degraded, "degraded") + item(counters.faults, "refused") +
         item(counters.expired, "expired") + item(counters.cancelled, "cancelled") +
         item(malformed, "malformed") + item(counters.struck_out, "peers not heard any more") +
         item(denied, "not let in") + (denied == 0 ? "" : " (" + reasons + ")") +
         item(counters.undeliverable, "undeliverable") +
         item(counters.unmatched, "answers from the next tier too late") +
         item(counters.unanswered, "unanswered");
}

Json counters_json(const NodeCounters& counters) {
  Json malformed = Json::object(), denied = Json::object();
  for (std::size_t i = 0; i < kMalformedCount; ++i)
    if (counters.malformed[i] > 0)
      malformed[malformed_name(static_cast<Malformed>(i))] = counters.malformed[i];
  for (std::size_t i = 0; i < kDenialCount; ++i)
    if (counters.denied[i] > 0) denied[denial_name(static_cast<Denial>(i))] = counters.denied[i];
  return {{"requests", counters.requests},
          {"batches", counters.batches},
          {"answers", counters.answers},
          {"handed_on", counters.forwarded},
          {"degraded", counters.degraded},
          {"faults", counters.faults},
          {"expired", counters.expired},
          {"cancelled", counters.cancelled},
          {"struck_out", counters.struck_out},
          {"undeliverable", counters.undeliverable},
          {"unmatched", counters.unmatched},
          {"unanswered", counters.unanswered},
          {"malformed", malformed},
          {"denied", denied}};
}

/// Nobody may be there to read it, and the node is there for other things.
void publish(std::optional<PortFile>& file, const std::string& address, const Logger& log) {
  if (!file) return;
  try {
    file->publish(address);
  } catch (const Error& error) {
    log.say(LogLevel::kError, error.what());
  }
}

class NodeCommand : public ConfigurableCommand {
 public:
  explicit NodeCommand(CLI::App& root)
      : ConfigurableCommand(
            root.add_subcommand("node", "Be the edge or the cloud, until SIGTERM or Ctrl-C")) {
    app()
        ->add_option("-t,--tier", tier_, "which part of the network to serve")
        ->required()
        ->type_name("edge|cloud")
        ->check(one_of({"edge", "cloud"}));
    app()
        ->add_option("-l,--listen", listen_, "address to serve; port 0 takes a free one")
        ->required()
        ->type_name("HOST:PORT");
    next_.add_to(*app(), "the tier after this one");
    policy_.add_to(*app());
    keys_.add_to(*app(), true);
    model_.add_to(*app());
    rules_.add_to(*app());
    add_count(*app(), "--workers", workers_, 1, 256, "requests computed side by side [1]");
    add_count(*app(), "--queue", queue_, 1, 1'000'000,
              "requests that wait for a worker, at most; each device\n"
              "may have one there, so take as many as there are [256]");
    add_count(*app(), "--batch", batch_, 1, 32,
              "requests that a worker computes together, at most\n[1 at the edge, 8 in the cloud]");
    app()
        ->add_option("--batch-delay", batch_delay_,
                     "how long a worker waits for more of them, up to 2ms;\n"
                     "0 takes those that are there [0]")
        ->type_name("TIME");
    codec_.add_to(*app());
    add_share(*app(), "--audit", audit_,
              "of the requests that this tier is sure of, hand on so many\n"
              "all the same, once answered, and compare [0]");
    compute_.add_to(*app());
    app()
        ->add_option("--drain", drain_, "when stopped, how long to wait for missing answers [10s]")
        ->type_name("TIME");
    app()
        ->add_option("--port-file", port_file_, "write the bound address there once ready")
        ->type_name("FILE");
    app()
        ->add_option("--metrics", metrics_,
                     "serve /metrics, /health/live and /health/ready over HTTP\n"
                     "there; on loopback when only a PORT is given")
        ->type_name("HOST:PORT");
    app()
        ->add_option("--metrics-port-file", metrics_port_file_,
                     "write the address that --metrics has bound there")
        ->type_name("FILE");
    CLI::Option* const quiet =
        app()->add_flag("-q,--quiet", quiet_, "log warnings and errors only");
    log_.add_to(*app(), quiet, "info");
    app()->footer(
        std::string("With --keys, links over TCP are encrypted and only keys of DIR/allow get in;\n"
                    "SIGHUP reads that file again. ipc:///PATH needs no keys.\n"
                    "With OFFRAMP_CONV unset, algorithms are chosen for a batch of N: the last\n"
                    "bits of an answer are those of `offramp eval --batch N`.\n"
                    "\n"
                    "Examples:\n"
                    "  offramp node --tier cloud --listen 0.0.0.0:5556 --keys keys/cloud\n"
                    "  offramp node --tier edge --listen 0.0.0.0:5555 --next cloud.local:5556 "
                    "--keys keys/edge\n"
                    "  offramp node --tier edge --listen 127.0.0.1:0 --port-file edge.addr "
                    "--insecure\n"
                    "  offramp node --config edge.toml --metrics 9101 --log-format json") +
        kSettingsHelp);
  }

  void check() override { static_cast<void>(read_values()); }

  int run() override {
    // Before the list of keys is read, so that no change of it is missed.
    hold_hangup();
    raise_descriptor_limit();
    const Values values = read_values();
    const NodeOptions& options = values.options;
    const std::vector<Stage> stages = compile_stages(
        values.model, values.rules, compute_.plan(values.model, batch(options.tier)));
    const Logger log = log_.make(options.tier, quiet_ ? LogLevel::kWarning : LogLevel::kInfo);

    std::optional<PortFile> port_file, metrics_port_file;
    if (!port_file_.empty()) port_file.emplace(port_file_);
    if (!metrics_port_file_.empty()) metrics_port_file.emplace(metrics_port_file_);
    std::optional<MetricsServer> metrics;
    if (values.metrics) metrics.emplace(*values.metrics);
    // Before the node's threads exist, so that no signal is missed.
    const StopFlag stop;
    NextNodes nodes;
    if (!values.next.empty()) {
      const int next_stage = options.first_stage + options.stage_count;
      nodes = zmq_nodes(values.links, link_identity(stages, values.model.id, next_stage));
    }
    Node node(stages, values.model.id, options, std::move(nodes), log.callback());
    // Its threads ask the node, which goes before it does.
    struct Serving {
      std::optional<MetricsServer>& server;
      ~Serving() {
        if (server) server->stop();
      }
    } const serving{metrics};
    if (metrics) {
      metrics->serve(identity(values.model), [&node] { return node.telemetry(); });
      publish(metrics_port_file, to_string(metrics->address()), log);
    }
    publish(port_file, node.endpoint(), log);
    announce(node, values, metrics, log);
    tell_service_manager("READY=1\nSTATUS=" + tier_ + " on " + node.endpoint());
    while (stop.wait() == StopFlag::Woken::kHangup) {
      tell_service_manager("RELOADING=1");
      if (options.keys)
        reload(node, log);
      else
        log.say(LogLevel::kWarning,
                "SIGHUP: wanted a list of keys to read again, found a node without one");
      tell_service_manager("READY=1");
    }
    tell_service_manager("STOPPING=1");
    node.stop();
    const NodeCounters counters = node.counters();
    log.say(LogLevel::kInfo, counters_line(counters), counters_json(counters));
    if (const AuditCounts audits = node.telemetry().audits; audits.asked > 0)
      log.say(LogLevel::kInfo, "audit: " + audit_text(audits), audit_json(audits));
    if (counters.unanswered == 0) return 0;
    log.say(LogLevel::kError, "node: wanted every request answered within --drain " + drain_ +
                                  ", found " + std::to_string(counters.unanswered) +
                                  " still being computed");
    // A destructor would wait for the workers, and one that never returns would be waited for for
    // ever.
    _exit(static_cast<int>(ErrorKind::kUnavailable));
  }

 private:
  /// What the options say, once it has been looked at.
  struct Values {
    NodeOptions options;
    std::vector<std::string> next;  ///< "tcp://host:port"
    std::vector<ZmqEndpoint> links;
    std::optional<HttpAddress> metrics;
    Model model;
    Share share;
    std::vector<ExitRule> rules;
  };

  Values read_values() const {
    Values values;
    NodeOptions& options = values.options;
    options.tier = tier_ == "edge" ? Tier::kEdge : Tier::kCloud;
    options.listen = parse_listen_endpoint("--listen", listen_);
    options.workers = workers_;
    options.queue_capacity = queue_;
    options.batch_delay = batch_delay();
    options.drain = std::chrono::ceil<std::chrono::milliseconds>(parse_duration("--drain", drain_));
    options.policy = policy_.policy();
    values.next = next_.endpoints();
    if (codec_.given() && values.next.empty()) {
      throw Error(
          ErrorKind::kUsage,
          "--codec, --lz4: wanted --next beside them, as they say how to hand on, found none");
    }
    options.format = codec_.format();
    options.audit = audit_;
    if (audit_ > 0.0 && values.next.empty())
      throw Error(ErrorKind::kUsage,
                  "--audit: wanted --next beside it, which is asked, found none");
    if (!metrics_.empty()) values.metrics = parse_http_address("--metrics", metrics_, 0);
    if (!metrics_port_file_.empty() && metrics_.empty())
      throw Error(ErrorKind::kUsage, "--metrics-port-file: wanted --metrics beside it, found none");
    options.keys = keys_.node(options.listen);
    values.links = keys_.links(values.next);
    values.model = load_model(model_.path());
    options.pictures = values.model.preprocess;
    values.share = share_of(options.tier, values.model);
    options.first_stage = values.share.first;
    options.stage_count = values.share.count;
    if (values.share.last && !values.next.empty()) {
      throw Error(ErrorKind::kUsage, "--next: wanted none, as this tier has the last exit of " +
                                         values.model.name + ", found " + join(values.next, ", "));
    }
    values.rules = rules_.read(values.model);
    return values;
  }

  NodeIdentity identity(const Model& model) const {
    NodeIdentity identity{
        .tier = tier_, .model = model.name, .model_id = short_id(model.id), .exits = {}};
    for (const auto& exit : model.graph.exits) identity.exits.push_back(exit.name);
    return identity;
  }

  /// Together, requests keep a worker busier; alone, each is answered sooner.
  int batch(Tier tier) const {
    if (batch_ > 0) return batch_;
    return tier == Tier::kEdge ? kEdgeBatch : kCloudBatch;
  }

  std::chrono::microseconds batch_delay() const {
    if (batch_delay_ == "0") return {};
    const std::chrono::microseconds delay = parse_duration("--batch-delay", batch_delay_);
    if (delay > kLongestBatchDelay) {
      throw Error(
          ErrorKind::kUsage,
          "--batch-delay: wanted 0, or a duration of at most 2ms, found '" + batch_delay_ + "'");
    }
    return delay;
  }

  /// A list that cannot be read changes nothing.
  void reload(Node& node, const Logger& log) const {
    try {
      AllowList list = keys_.allow_list();
      const std::size_t size = list.size();
      node.allow(std::move(list));
      log.say(LogLevel::kInfo,
              "allow-list read again: " + std::to_string(size) + (size == 1 ? " key" : " keys"),
              {{"keys", size}});
    } catch (const Error& error) {
      log.say(LogLevel::kError,
              std::string(error.what()) + "; the list that was read before stays");
    }
  }

  void announce(const Node& node, const Values& values, const std::optional<MetricsServer>& metrics,
                const Logger& log) const {
    const Model& model = values.model;
    const std::string at = metrics ? to_string(metrics->address()) : "";
    log.say(LogLevel::kInfo,
            "listening on " + node.endpoint() + " as " + tier_ + ", model " + model.name + " (" +
                short_id(model.id) + "), " + std::to_string(workers_) +
                (workers_ == 1 ? " worker" : " workers") +
                (values.next.empty() ? std::string() : ", next " + join(values.next, ", ")) +
                (values.options.policy == Policy::kBalanced ? "" : ", policy " + policy_.text) +
                (at.empty() ? std::string() : ", metrics on http://" + at + "/metrics"),
            {{"endpoint", node.endpoint()},
             {"model", model.name},
             {"model_id", short_id(model.id)},
             {"workers", workers_},
             {"next", join(values.next, ", ")},
             {"policy", policy_.text},
             {"metrics", at}});
    if (const std::string warning = keys_.warning(); !warning.empty())
      log.say(LogLevel::kWarning, warning);
    if (!values.share.last && values.options.policy == Policy::kLocalOnly) {
      log.say(
          LogLevel::kInfo,
          "--policy local-only: undecided pictures get this tier's own answer, marked degraded");
    } else if (!values.share.last && values.next.empty()) {
      log.say(LogLevel::kWarning,
              "no --next: undecided pictures get this tier's own answer, marked degraded");
    }
    if (values.options.keys && values.options.keys->allowed.size() == 0)
      log.say(LogLevel::kWarning, "the allow-list is empty: nobody may connect");
  }

  std::string tier_;
  std::string listen_;
  NextOption next_;
  PolicyOption policy_;
  KeyOptions keys_;
  ModelOption model_;
  RuleOptions rules_;
  CodecOptions codec_;
  ComputeOptions compute_;
  int workers_ = 1;
  int queue_ = 256;
  int batch_ = 0;  ///< 0: the tier's own
  double audit_ = 0.0;
  std::string batch_delay_ = "0";
  std::string drain_ = "10s";
  std::string port_file_;
  std::string metrics_;
  std::string metrics_port_file_;
  bool quiet_ = false;
  LogOptions log_;
};

}  // namespace

std::unique_ptr<Command> make_node(CLI::App& root) { return std::make_unique<NodeCommand>(root); }

}  // namespace offramp::cli
