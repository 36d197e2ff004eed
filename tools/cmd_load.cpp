// offramp load: as many devices as wanted, to see what a node bears.

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/dataset.h"
#include "engine/error.h"
#include "net/node.h"
#include "net/sessions.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/descriptors.h"
#include "tools/key_options.h"
#include "tools/load_generator.h"
#include "tools/load_report.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/pictures.h"
#include "tools/rule_options.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;

// Of a search for the peak.
constexpr int kDoublings = 12;
constexpr int kBisections = 3;

class Load : public Command {
 public:
  explicit Load(CLI::App& root)
      : Command(
            root.add_subcommand("load", "Send as many devices would, and measure the answers")) {
    CLI::Option* const images =
        app()
            ->add_option("IMAGE", images_, "pictures to send, or folders [the sample pictures]")
            ->option_text("...");
    app()->add_option("-n,--next", next_, "the node")->required()->type_name("HOST:PORT");
    keys_.add_to(*app(), false);
    app()->get_option("--keys")->description(
        "folder with one *.key (offramp keygen) or more, taken in\n"
        "turn by the connections, and next.pub (key of --next)");
    add_count(*app(), "-c,--connections", connections_, 1, 100'000,
              "devices; a node knows 64 of one key [1]");
    app()
        ->add_option("-r,--rate", rates_,
                     "requests a second, of all together, whatever\n"
                     "becomes of them; several: one after the other")
        ->type_name("R[,R2...]")
        ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    add_count(*app(), "--concurrency", concurrency_, 1, 1'000'000,
              "instead: so many requests under way, the next one as\nsoon as one is answered");
    app()->add_flag("--sweep", sweep_, "from --rate up, until the node no longer keeps up");
    app()
        ->add_option("--arrivals", arrivals_, "at random times or evenly [poisson]")
        ->type_name("poisson|uniform")
        ->check(one_of({"poisson", "uniform"}));
    app()->add_option("--duration", duration_, "of each measurement [10s]")->type_name("TIME");
    app()
        ->add_option("--warmup", warmup_, "before each, sent and not counted [1s]")
        ->type_name("TIME");
    app()
        ->add_option("--deadline", deadline_, "for each request, from when it was to be sent [1s]")
        ->type_name("TIME");
    add_count(*app(), "--window", window_, 1, 1024,
              "requests of a device under way at once, if the node\nallows it [8]");
    app()
        ->add_option("-d,--data", data_, "a labelled data set to send, as for eval")
        ->type_name("DIR")
        ->excludes(images);
    add_count(*app(), "--limit", limit_, 1, 1'000'000,
              "only the first N pictures of --data [1000]");
    app()->add_flag("--all", all_, "also pictures that a device answers itself");
    add_count(*app(), "--cut", cut_, 1, 255,
              "1: be devices, for an edge; 2: be edges, for a cloud [1]");
    model_.add_to(*app());
    rules_.add_to(*app());
    codec_.add_to(*app());
    add_count(*app(), "--threads", threads_, 1, 64, "that send [1]");
    add_count(*app(), "--seed", seed_, 0, 1'000'000'000, "of arrivals [1]");
    app()->add_option("--wait", wait_, "for all connections to be up [10s]")->type_name("TIME");
    app()->add_option("--csv", csv_, "write a line for each rate")->type_name("FILE");
    app()->add_option("--requests", requests_, "write a line for each request")->type_name("FILE");
    app()->add_flag("--json", json_, "one JSON object");
    app()->footer(
        "Latency counts from when a request was to be sent, so a node that holds up the\n"
        "sender does not hide it; percentiles are of all answers but errors. Each answer is\n"
        "compared with the cascade's in this process, which needs the --model and the\n"
        "--thresholds of the nodes; they may use any --codec among themselves.\n"
        "\n"
        "  OK        the answer of the whole cascade\n"
        "  DEGRADED  the best that a tier could do alone\n"
        "  ERRORS    refused: the node is full, the time was over ...\n"
        "  UNSENT    no connection was up, none had room, or the deadline had passed\n"
        "  LOST      no answer in the deadline and two seconds more, or the connection broke\n"
        "  TWICE     answers beyond the first, warm-up included\n"
        "  LATE      answers after the deadline\n"
        "  WRONG     another label, exit, probability or entropy than the cascade's\n"
        "  GOODPUT   OK within the deadline, a second\n"
        "\n"
        "Ends with 0 when each request was answered once and rightly, degraded answers and\n"
        "errors included; with 69 when some were lost or answered twice, when none was sent, or\n"
        "connections could not be made; with 78 when answers were wrong.\n"
        "\n"
        "Examples:\n"
        "  offramp load --next edge.local:5555 --keys keys/load --rate 100,200,400\n"
        "  offramp load --next edge.local:5555 --keys keys/load --connections 1000 --rate 100 "
        "--sweep\n"
        "  offramp load --next cloud.local:5556 --keys keys/edge --cut 2 --concurrency 32");
  }

  int run() override {
    raise_descriptor_limit();
    LoadSetup setup;
    setup.next = parse_peer_endpoint("--next", next_);
    const std::vector<LoadPhase> phases = parse_phases();
    setup.deadline = parse_duration("--deadline", deadline_);
    const auto wait = parse_duration("--wait", wait_);
    setup.keys = keys_.links(setup.next);
    require_enough_keys(setup.keys.size());
    setup.connections = connections_;
    setup.threads = std::min(threads_, connections_);
    setup.window = window_;
    setup.arrivals = arrivals_ == "uniform" ? Arrivals::kUniform : Arrivals::kPoisson;
    setup.seed = static_cast<std::uint64_t>(seed_);
    const Model model = load_model(model_.path());
    const std::vector<Stage> stages =
        compile_stages(model, rules_.read(model), plan_options_from_environment());
    check_independent(stages);
    if (cut_ >= static_cast<int>(stages.size()))
      throw Error(ErrorKind::kUsage, "--cut: wanted a number below that of the exits of " +
                                         model.name + ", " + std::to_string(stages.size()) +
                                         ", found " + std::to_string(cut_));
    setup.identity = link_identity(stages, model.id, cut_);
    std::optional<OutputFile> csv, requests;
    if (!csv_.empty()) csv.emplace(csv_);
    if (!requests_.empty()) requests.emplace(requests_);
    std::size_t pictures = 0;
    const std::vector<LoadSample> samples = make_samples(model, stages, pictures);
    if (const std::string warning = keys_.warning(); !warning.empty()) log(warning);

    LoadGenerator generator(setup, samples);
    generator.connect(wait);
    if (requests) requests->write(request_csv_header());
    std::vector<LoadRow> rows;
    const LoadTable table;
    if (!json_) print(samples_text(samples.size(), pictures) + table.header());
    const auto measure = [&](const LoadPhase& phase) {
      const LoadDriver::Result result = generator.run(phase);
      const LoadRow& row = rows.emplace_back(phase, result, setup.deadline);
      if (requests) requests->write(request_csv(phase, result));
      if (!json_) print(table.line(row) + load_details(row));
    };
    if (sweep_)
      sweep(phases.front(), rows, measure);
    else
      std::ranges::for_each(phases, measure);
    if (requests) requests->close();
    if (csv) {
      csv->write(load_csv(rows));
      csv->close();
    }
    report(setup, model, samples.size(), rows);
    return verdict(rows);
  }

 private:
  std::vector<LoadPhase> parse_phases() const {
    LoadPhase phase;
    phase.duration = parse_duration("--duration", duration_);
    phase.warmup = parse_duration("--warmup", warmup_);
    phase.concurrency = concurrency_;
    if (rates_.empty() == (concurrency_ == 0))
      throw Error(ErrorKind::kUsage, std::string("load: wanted --rate or --concurrency, found ") +
                                         (rates_.empty() ? "neither" : "both"));
    if (sweep_ && concurrency_ > 0)
      throw Error(ErrorKind::kUsage, "--sweep: wanted --rate, found --concurrency");
    if (concurrency_ > 0) return {phase};
    std::vector<LoadPhase> phases;
    for (const double rate : parse_numbers("--rate", rates_, 0.01, 1e6)) {
      phase.rate = rate;
      phases.push_back(phase);
    }
    if (sweep_ && phases.size() > 1)
      throw Error(ErrorKind::kUsage, "--sweep: wanted one --rate to begin with, found " +
                                         std::to_string(phases.size()));
    return phases;
  }

  /// A node forgets the oldest session of a key for each that is too many, and load would look
  /// like lost requests.
  void require_enough_keys(std::size_t keys) const {
    const std::size_t wanted =
        (static_cast<std::size_t>(connections_) + kMaxSessionsOfOneKey - 1) / kMaxSessionsOfOneKey;
    if (keys > 0 && keys < wanted)
      throw Error(ErrorKind::kUsage, "--connections: wanted at least " + std::to_string(wanted) +
                                         " keys for " + std::to_string(connections_) +
                                         " connections (a node knows " +
                                         std::to_string(kMaxSessionsOfOneKey) +
                                         " of one key), found " + std::to_string(keys));
  }

  /// `pictures`: how many were tried.
  std::vector<LoadSample> make_samples(const Model& model, std::span<const Stage> stages,
                                       std::size_t& pictures) const {
    const LoadSampleOptions options{.cut = cut_, .format = codec_.format(), .all = all_};
    if (!data_.empty()) {
      const std::unique_ptr<Dataset> data = open_dataset(data_, model.classes);
      pictures = std::min(data->size(), static_cast<std::size_t>(limit_));
      return make_load_samples(stages, options, pictures,
                               [&](std::size_t index, std::span<float> input) {
                                 preprocess(data->picture(index), model.preprocess, input.data());
                               });
    }
    const std::vector<std::string> names =
        images_.empty() ? sample_pictures() : with_folders_opened(images_);
    pictures = names.size();
    return make_load_samples(
        stages, options, pictures, [&](std::size_t index, std::span<float> input) {
          preprocess(open_picture(names[index]), model.preprocess, input.data());
        });
  }

  std::string samples_text(std::size_t samples, std::size_t pictures) const {
    std::string text = "sends " + format_grouped(samples) + " of " + format_grouped(pictures) +
                       (pictures == 1 ? " picture" : " pictures");
    if (!all_) text += cut_ == 1 ? ", what a device hands on" : ", what gets so far";
    return text + ", again and again\n\n";
  }

  /// Doubles the rate until the node no longer keeps up, then looks between the last two.
  static void sweep(LoadPhase phase, const std::vector<LoadRow>& rows,
                    const std::function<void(const LoadPhase&)>& measure) {
    double good = 0.0, bad = 0.0;
    for (int i = 0; i < kDoublings && bad == 0.0; ++i) {
      measure(phase);
      (rows.back().keeps_up() ? good : bad) = phase.rate;
      phase.rate *= 2;
    }
    if (good == 0.0 || bad == 0.0) return;
    for (int i = 0; i < kBisections; ++i) {
      phase.rate = std::round(std::sqrt(good * bad));
      measure(phase);
      (rows.back().keeps_up() ? good : bad) = phase.rate;
    }
  }

  void report(const LoadSetup& setup, const Model& model, std::size_t samples,
              const std::vector<LoadRow>& rows) const {
    const LoadRow& peak = *std::ranges::max_element(rows, {}, &LoadRow::goodput);
    if (!json_) {
      if (sweep_) print("\npeak      " + format_fixed(peak.goodput, 1) + "/s\n");
      return;
    }
    Json value = {
        {"model", model.name},
        {"next", setup.next},
        {"connections", setup.connections},
        {"keys", setup.keys.size()},
        {"threads", setup.threads},
        {"cut", cut_},
        {"codec", to_string(codec_.format())},
        {"samples", samples},
        {"arrivals", arrivals_},
        {"seed", seed_},
        {"deadline_ms", std::chrono::duration<double, std::milli>(setup.deadline).count()},
        {"rows", Json::array()}};
    for (const LoadRow& row : rows) value["rows"].push_back(load_json(row));
    value["peak_goodput"] = peak.goodput;
    print_json(value, 2);
  }

  static int verdict(const std::vector<LoadRow>& rows) {
    LoadRow sum = rows.front();
    for (std::size_t i = 1; i < rows.size(); ++i) {
      sum.sent += rows[i].sent;
      sum.lost += rows[i].lost;
      sum.duplicated += rows[i].duplicated;
      sum.wrong += rows[i].wrong;
    }
    if (sum.wrong > 0) {
      complain("load: wanted the answers of the cascade, found " + format_grouped(sum.wrong) +
               " others: do the nodes have the same --thresholds?");
      return static_cast<int>(ErrorKind::kBadModel);
    }
    if (sum.sent == 0) {
      complain("load: wanted requests in --duration, found none");
      return static_cast<int>(ErrorKind::kUnavailable);
    }
    if (sum.lost + sum.duplicated > 0) {
      complain("load: wanted one answer to each request, found " + format_grouped(sum.sent) +
               " sent, " + format_grouped(sum.lost) + " lost and " +
               format_grouped(sum.duplicated) + " answers too many");
      return static_cast<int>(ErrorKind::kUnavailable);
    }
    return 0;
  }

  std::vector<std::string> images_;
  std::string next_;
  KeyOptions keys_;
  int connections_ = 1;
  std::string rates_;
  int concurrency_ = 0;
  bool sweep_ = false;
  std::string arrivals_ = "poisson";
  std::string duration_ = "10s";
  std::string warmup_ = "1s";
  std::string deadline_ = "1s";
  int window_ = 8;
  std::string data_;
  int limit_ = 1000;
  bool all_ = false;
  int cut_ = 1;
  ModelOption model_;
  RuleOptions rules_;
  CodecOptions codec_;
  int threads_ = 1;
  int seed_ = 1;
  std::string wait_ = "10s";
  std::string csv_;
  std::string requests_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_load(CLI::App& root) { return std::make_unique<Load>(root); }

}  // namespace offramp::cli
