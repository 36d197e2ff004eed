// offramp run: the device. Its own stage here, the rest wherever --next leads.

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/dataset.h"
#include "engine/error.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/decisions.h"
#include "tools/device_run.h"
#include "tools/history.h"
#include "tools/key_options.h"
#include "tools/logger.h"
#include "tools/next_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/pictures.h"
#include "tools/rule_options.h"

namespace offramp::cli {
namespace {

class Run : public ConfigurableCommand {
 public:
  explicit Run(CLI::App& root)
      : ConfigurableCommand(
            root.add_subcommand("run", "Be the device: classify pictures with the next tiers")) {
    CLI::Option* images =
        app()
            ->add_option("IMAGE", images_,
                         "JPEG, PNG or BMP files, or folders; - reads\nstandard input")
            ->option_text("...");
    next_.add_to(*app(), "the edge");
    keys_.add_to(*app(), false);
    app()
        ->add_option("-d,--data", data_, "a labelled data set instead, as for eval")
        ->option_text("DIR")
        ->excludes(images);
    add_count(*app(), "--limit", limit_, 1, 1'000'000'000, "only the first N pictures of --data");
    model_.add_to(*app());
    rules_.add_to(*app());
    cut_.add_to(*app());
    codec_.add_to(*app());
    compute_.add_to(*app());
    app()
        ->add_option("--deadline", deadline_,
                     "for each picture, then the device answers itself [1s]")
        ->type_name("TIME");
    add_share(*app(), "--audit", audit_,
              "of the pictures that the device is sure of, hand on so many\n"
              "all the same, once answered, and compare [0]");
    policy_.add_to(*app());
    app()
        ->add_option("--wait", wait_, "for --next to appear when it is first needed [500ms]")
        ->type_name("TIME");
    add_count(*app(), "--window", window_, 1, 1024, "pictures under way at once [8]");
    app()
        ->add_option("--duration", duration_, "go through the pictures again and again for so long")
        ->type_name("TIME");
    app()
        ->add_option("--every", every_, "a picture so often at most, as a camera would [at once]")
        ->type_name("TIME");
    app()
        ->add_option("--history", history_path_,
                     "write as CSV when each picture was begun and answered, and how")
        ->type_name("FILE");
    app()
        ->add_option("--decisions", decisions_, "write decisions as CSV, exact to the bit")
        ->type_name("FILE");
    CLI::Option* const verbose =
        app()->add_flag("-v,--verbose", verbose_, "log what becomes of the link to --next");
    log_.add_to(*app(), verbose, "error");
    app()->add_flag("--json", json_, "one JSON object a picture, or one for all of --data");
    app()->footer(
        std::string(
            "Examples:\n"
            "  offramp run --next edge.local:5555 --keys keys/device cat.png ship.jpg\n"
            "  offramp run --next edge-1:5555,edge-2:5555 --keys keys/device --policy strict "
            "cat.png\n"
            "  offramp run --next edge.local:5555 --keys keys/device --data cifar-10-batches-bin "
            "--codec u8\n"
            "  offramp run --next 127.0.0.1:5555 --insecure --deadline 50ms --thresholds 0.1 "
            "cat.png\n"
            "  offramp run --config device.toml cat.png") +
        kSettingsHelp);
  }

  void check() override { static_cast<void>(read_values()); }

  int run() override {
    if (images_.empty() == data_.empty()) {
      throw Error(ErrorKind::kUsage, "run: wanted IMAGE... or --data DIR, found neither");
    }
    images_ = with_folders_opened(images_);
    const Values values = read_values();
    const Model& model = values.model;
    const std::vector<Stage> stages = compile_stages(model, values.rules, compute_.plan(model, 1));
    const Logger log = log_.make(Tier::kDevice, verbose_ ? LogLevel::kInfo : LogLevel::kError);
    if (const std::string warning = keys_.warning(); !warning.empty())
      log.say(LogLevel::kError, warning);
    if (!decisions_.empty()) decisions_file_.emplace(decisions_);
    if (!history_path_.empty()) history_.emplace(history_path_);
    const DeviceSetup setup{.model = model,
                            .stages = stages,
                            .unit = rules_.unit(model),
                            .next = values.next,
                            .options = values.options,
                            .log = log.callback(),
                            .history = history_ ? &*history_ : nullptr};
    return data_.empty() ? run_images(setup) : run_data(setup);
  }

 private:
  /// What the options say, once it has been looked at.
  struct Values {
    std::vector<ZmqEndpoint> next;  ///< none with kLocalOnly
    DeviceOptions options;
    Model model;
    std::vector<ExitRule> rules;
  };

  Values read_values() const {
    // A device waits in whole milliseconds; a shorter time than one is one.
    using std::chrono::ceil, std::chrono::milliseconds;
    Values values;
    DeviceOptions& options = values.options;
    options.policy = policy_.policy();
    const std::vector<std::string> endpoints = next_.endpoints();
    if (options.policy != Policy::kLocalOnly) {
      if (endpoints.empty())
        throw Error(ErrorKind::kUsage,
                    "run: wanted --next HOST:PORT or --policy local-only, found neither");
      values.next = keys_.links(endpoints);
    }
    options.deadline = ceil<milliseconds>(parse_duration("--deadline", deadline_));
    options.connect_grace = ceil<milliseconds>(parse_duration("--wait", wait_));
    options.window = window_;
    options.audit = audit_;
    options.format = codec_.format();
    if (!duration_.empty()) options.duration = parse_duration("--duration", duration_);
    if (!every_.empty()) options.every = parse_duration("--every", every_);
    values.model = load_model(model_.path());
    options.cut = cut_.cut();
    options.pictures = values.model.preprocess;
    values.rules = rules_.read(values.model);
    return values;
  }

  int run_images(const DeviceSetup& setup) {
    const OutcomeTable table(setup, images_);
    RunSummary summary(setup);
    int code = 0;
    bool begun = false;
    const AuditCounts audits = run_device(
        setup, images_.size(),
        [&](std::size_t id, std::span<float> input) {
          try {
            preprocess(open_picture(name(id)), setup.model.preprocess, input.data());
            return true;
          } catch (const Error& error) {
            if (id < images_.size()) complain(error.what());
            if (code == 0) code = static_cast<int>(error.kind());
            return false;
          }
        },
        [&](std::size_t id, const Outcome& outcome) {
          summary.add(outcome, std::nullopt);
          keep(id, outcome);
          if (json_) {
            print_json(outcome_json(setup, name(id), outcome));
          } else {
            if (!std::exchange(begun, true)) print(table.header());
            print(table.line(name(id), outcome));
          }
        });
    if (audits.asked > 0) complain("audit: " + audit_text(audits));
    const int degraded = finish(summary);
    return code != 0 ? code : degraded;
  }

  int run_data(const DeviceSetup& setup) {
    const std::unique_ptr<Dataset> data = open_dataset(data_, setup.model.classes);
    std::size_t count = data->size();
    if (limit_ > 0) count = std::min(count, static_cast<std::size_t>(limit_));
    if (count == 0) throw Error(ErrorKind::kBadData, data_ + ": wanted pictures, found none");
    RunSummary summary(setup);
    {
      Progress progress("device", setup.options.duration ? 0 : count);
      summary.set(run_device(
          setup, count,
          [&](std::size_t id, std::span<float> input) {
            preprocess(data->picture(id % count), setup.model.preprocess, input.data());
            return true;
          },
          [&](std::size_t id, const Outcome& outcome) {
            summary.add(outcome, data->label(id % count));
            keep(id, outcome);
            progress.advance(1);
          }));
    }
    if (json_) {
      print_json(summary.json(), 2);
    } else {
      print(summary.text());
    }
    return finish(summary);
  }

  const std::string& name(std::size_t id) const { return images_[id % images_.size()]; }

  void keep(std::size_t id, const Outcome& outcome) {
    if (decisions_file_)
      rows_.push_back({id, outcome.decision, status_of(outcome), outcome.answered});
  }

  /// Writes the decisions; the code says whether all answers are the whole cascade's.
  int finish(const RunSummary& summary) {
    if (decisions_file_) write_decisions(*decisions_file_, rows_);
    if (history_) history_->close();
    const std::optional<std::string> complaint = summary.complaint();
    if (!complaint) return 0;
    complain(*complaint);
    return static_cast<int>(ErrorKind::kUnavailable);
  }

  std::vector<std::string> images_;
  NextOption next_;
  PolicyOption policy_;
  KeyOptions keys_;
  std::string data_;
  int limit_ = 0;
  ModelOption model_;
  RuleOptions rules_;
  CutOption cut_;
  CodecOptions codec_;
  ComputeOptions compute_;
  std::string deadline_ = "1s";
  std::string wait_ = "500ms";
  int window_ = 8;
  double audit_ = 0.0;
  std::string duration_, every_;
  std::string decisions_;
  std::optional<OutputFile> decisions_file_;
  std::vector<DecisionRow> rows_;
  std::string history_path_;
  std::optional<History> history_;
  bool verbose_ = false;
  LogOptions log_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_run(CLI::App& root) { return std::make_unique<Run>(root); }

}  // namespace offramp::cli
