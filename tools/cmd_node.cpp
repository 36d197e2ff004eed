// offramp node: the edge or the cloud as a process.

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/cascade.h"
#include "engine/error.h"
#include "net/node.h"
#include "net/zmq_channel.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/descriptors.h"
#include "tools/key_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/signals.h"

namespace offramp::cli {
namespace {

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

/// Tells a waiting script the bound address: the file appears whole or not at all.
class PortFile {
 public:
  /// Throws Error{kCannotWrite} before the node starts.
  explicit PortFile(std::filesystem::path path)
      : path_(std::move(path)),
        draft_(path_.string() + "." + std::to_string(getpid())),
        file_(draft_) {}
  ~PortFile() {
    std::error_code already_renamed;
    std::filesystem::remove(draft_, already_renamed);
  }
  PortFile(const PortFile&) = delete;
  PortFile& operator=(const PortFile&) = delete;

  void publish(const std::string& endpoint) {
    file_.write(endpoint + "\n");
    file_.close();
    std::error_code error;
    std::filesystem::rename(draft_, path_, error);
    if (error) {
      throw Error(ErrorKind::kCannotWrite,
                  path_.string() + ": wanted a file to write to, found: " + error.message());
    }
  }

 private:
  std::filesystem::path path_, draft_;
  OutputFile file_;
};

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
         item(counters.expired, "expired") + item(malformed, "malformed") +
         item(denied, "not let in") + (denied == 0 ? "" : " (" + reasons + ")") +
         item(counters.undeliverable, "undeliverable") +
         item(counters.unmatched, "answers from the next tier too late") +
         item(counters.unanswered, "unanswered");
}

class NodeCommand : public Command {
 public:
  explicit NodeCommand(CLI::App& root)
      : Command(root.add_subcommand("node", "Be the edge or the cloud, until SIGTERM or Ctrl-C")) {
    app()
        ->add_option("-t,--tier", tier_, "which part of the network to serve")
        ->required()
        ->type_name("edge|cloud")
        ->check(CLI::Validator(
            [](std::string& text) {
              return text == "edge" || text == "cloud"
                         ? std::string()
                         : "wanted edge or cloud, found '" + text + "'";
            },
            ""));
    app()
        ->add_option("-l,--listen", listen_, "address to serve; port 0 takes a free one")
        ->required()
        ->type_name("HOST:PORT");
    app()->add_option("-n,--next", next_, "the tier after this one")->type_name("HOST:PORT");
    keys_.add_to(*app(), true);
    model_.add_to(*app());
    thresholds_.add_to(*app());
    add_count(*app(), "--workers", workers_, 1, 256, "requests computed side by side [1]");
    codec_.add_to(*app());
    compute_.add_to(*app());
    app()
        ->add_option("--drain", drain_, "when stopped, how long to wait for missing answers [10s]")
        ->type_name("TIME");
    app()
        ->add_option("--port-file", port_file_, "write the bound address there once ready")
        ->type_name("FILE");
    app()->add_flag("-q,--quiet", quiet_, "log warnings and errors only");
    app()->footer(
        "With --keys, links over TCP are encrypted and only keys of DIR/allow get in;\n"
        "SIGHUP reads that file again. ipc:///PATH needs no keys.\n"
        "\n"
        "Examples:\n"
        "  offramp node --tier cloud --listen 0.0.0.0:5556 --keys keys/cloud\n"
        "  offramp node --tier edge --listen 0.0.0.0:5555 --next cloud.local:5556 --keys "
        "keys/edge\n"
        "  offramp node --tier edge --listen 127.0.0.1:0 --port-file edge.addr --insecure");
  }

  int run() override {
    // Before the list of keys is read, so that no change of it is missed.
    hold_hangup();
    raise_descriptor_limit();
    NodeOptions options;
    options.tier = tier_ == "edge" ? Tier::kEdge : Tier::kCloud;
    options.listen = parse_listen_endpoint("--listen", listen_);
    options.workers = workers_;
    options.drain = std::chrono::ceil<std::chrono::milliseconds>(parse_duration("--drain", drain_));
    const std::string next = next_.empty() ? "" : parse_peer_endpoint("--next", next_);
    if (codec_.given() && next.empty()) {
      throw Error(
          ErrorKind::kUsage,
          "--codec, --lz4: wanted --next beside them, as they say how to hand on, found none");
    }
    options.format = codec_.format();
    options.keys = keys_.node(options.listen);
    ZmqChannelOptions link;
    if (!next.empty()) link.keys = keys_.link(next);
    const Model model = load_model(model_.path());
    const Share share = share_of(options.tier, model);
    options.first_stage = share.first;
    options.stage_count = share.count;
    if (share.last && !next.empty()) {
      throw Error(ErrorKind::kUsage, "--next: wanted none, as this tier has the last exit of " +
                                         model.name + ", found " + next);
    }
    const std::vector<Stage> stages =
        make_stages(model, thresholds_.read(model), compute_.plan(model, 1));

    std::optional<PortFile> port_file;
    if (!port_file_.empty()) port_file.emplace(port_file_);
    // Before the node's threads exist, so that no signal is missed.
    const StopFlag stop;
    std::unique_ptr<Channel> channel;
    if (!next.empty()) {
      channel = connect_zmq(next, link_identity(stages, model.id, share.first + share.count), link);
    }
    const bool quiet = quiet_;
    Node node(stages, model.id, options, std::move(channel),
              [quiet](LogLevel level, const std::string& line) {
                if (level >= (quiet ? LogLevel::kWarning : LogLevel::kInfo)) log(line);
              });
    if (port_file) port_file->publish(node.endpoint());
    announce(node, model, share, next);
    if (options.keys && options.keys->allowed.size() == 0)
      log("the allow-list is empty: nobody may connect");
    while (stop.wait() == StopFlag::Woken::kHangup) {
      if (options.keys)
        reload(node);
      else
        log("SIGHUP: wanted a list of keys to read again, found a node without one");
    }
    node.stop();
    const NodeCounters counters = node.counters();
    if (!quiet_) log(counters_line(counters));
    if (counters.unanswered == 0) return 0;
    complain("node: wanted every request answered within --drain " + drain_ + ", found " +
             std::to_string(counters.unanswered) + " still being computed");
    // A destructor would wait for the workers, and one that never returns would be waited for for
    // ever.
    _exit(static_cast<int>(ErrorKind::kUnavailable));
  }

 private:
  /// A list that cannot be read changes nothing.
  void reload(Node& node) const {
    try {
      AllowList list = keys_.allow_list();
      const std::size_t size = list.size();
      node.allow(std::move(list));
      if (!quiet_)
        log("allow-list read again: " + std::to_string(size) + (size == 1 ? " key" : " keys"));
    } catch (const Error& error) {
      complain(std::string(error.what()) + "; the list that was read before stays");
    }
  }

  void announce(const Node& node, const Model& model, const Share& share,
                const std::string& next) const {
    if (!quiet_) {
      log("listening on " + node.endpoint() + " as " + tier_ + ", model " + model.name + " (" +
          short_id(model.id) + "), " + std::to_string(workers_) +
          (workers_ == 1 ? " worker" : " workers") +
          (next.empty() ? std::string() : ", next " + next));
    }
    keys_.warn();
    if (!share.last && next.empty()) {
      log("no --next: undecided pictures get this tier's own answer, marked degraded");
    }
  }

  std::string tier_;
  std::string listen_;
  std::string next_;
  KeyOptions keys_;
  ModelOption model_;
  ThresholdOptions thresholds_;
  CodecOptions codec_;
  ComputeOptions compute_;
  int workers_ = 1;
  std::string drain_ = "10s";
  std::string port_file_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_node(CLI::App& root) { return std::make_unique<NodeCommand>(root); }

}  // namespace offramp::cli
