// offramp demo: edge and cloud as processes of their own, this one is the device.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "engine/dataset.h"
#include "engine/error.h"
#include "tools/child_process.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/device_run.h"
#include "tools/key_options.h"
#include "tools/logger.h"
#include "tools/next_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/pictures.h"
#include "tools/rule_options.h"
#include "tools/signals.h"
#include "tools/tier_keys.h"

namespace offramp::cli {
namespace {

namespace fs = std::filesystem;

/// A folder of our own under the system's temporary one, gone at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "offramp-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      throw Error(ErrorKind::kCannotWrite,
                  pattern + ": wanted a folder, found: " + std::generic_category().message(errno));
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The nodes behind the device, the last tier first. All have keys that live as long as they do.
class Tiers {
 public:
  Tiers(std::vector<std::string> options, const StopFlag& stop)
      : options_(std::move(options)), stop_(stop) {
    make_tier_keys(folder_.path());
  }

  /// Starts a node that hands on to the one started before it, and waits until it listens.
  void start(const std::string& tier, const std::vector<std::string>& more = {}) {
    const fs::path keys = folder_.path() / tier, port_file = keys / "port";
    std::vector<std::string> arguments = {
        "node",        "--quiet",          "--tier", tier,         "--listen", "tcp://127.0.0.1:0",
        "--port-file", port_file.string(), "--keys", keys.string()};
    if (!endpoint_.empty()) arguments.insert(arguments.end(), {"--next", endpoint_});
    arguments.insert(arguments.end(), options_.begin(), options_.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    ChildProcess& child = children_.emplace_back(std::move(arguments));
    endpoint_ = wait_for(tier, port_file, child);
  }

  /// To the node started last, for a device.
  ZmqEndpoint link() const {
    return {.endpoint = endpoint_,
            .keys = read_link_keys(folder_.path() / tier_name(Tier::kDevice))};
  }

  /// Ends all of them, the first tier first, so that none loses the one behind it.
  void stop() {
    for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
      child->terminate();
      child->wait(std::chrono::seconds(5));
    }
  }

 private:
  std::string wait_for(const std::string& tier, const fs::path& port_file, ChildProcess& child) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < until) {
      stop_.check();
      std::ifstream file(port_file);
      if (std::string endpoint; std::getline(file, endpoint)) return endpoint;
      if (const auto code = child.ended()) {
        throw Error(ErrorKind::kUnavailable, tier +
                                                 ": wanted a node that listens, found that it "
                                                 "ended with " +
                                                 std::to_string(*code));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    throw Error(ErrorKind::kUnavailable, tier +
                                             ": wanted a node that listens within 20 s, found "
                                             "none");
  }

  std::vector<std::string> options_;
  const StopFlag& stop_;
  TemporaryFolder folder_;
  std::list<ChildProcess> children_;
  std::string endpoint_;
};

/// What the demo shows.
struct Gallery {
  std::vector<std::string> names;
  std::vector<int> labels;  ///< empty when they are not known
  std::function<Picture(std::size_t)> picture;
};

class Demo : public ConfigurableCommand {
 public:
  explicit Demo(CLI::App& root)
      : ConfigurableCommand(root.add_subcommand(
            "demo", "Classify pictures across three tiers, all on this machine")) {
    app()
        ->add_option("-d,--data", data_, "a labelled data set, as for eval [drawn sample pictures]")
        ->type_name("DIR");
    add_count(*app(), "--limit", limit_, 1, 1'000'000'000, "only the first N [20]");
    model_.add_to(*app());
    rules_.add_to(*app());
    cut_.add_to(*app());
    codec_.add_to(*app());
    policy_.add_to(*app());
    app()->footer(std::string("Examples:\n"
                              "  offramp demo\n"
                              "  offramp demo --thresholds 0.1 --codec u8\n"
                              "  offramp demo --target 0.3\n"
                              "  offramp demo --data cifar-10-batches-bin --limit 50") +
                  kSettingsHelp);
  }

  void check() override { rules_.read(load_model(model_.path())); }

  int run() override {
    const StopFlag stop;
    const fs::path path = model_.path();
    const Model model = load_model(path);
    const std::vector<Stage> stages =
        compile_stages(model, rules_.read(model), plan_options_from_environment());
    if (stages.size() < 2) {
      throw Error(ErrorKind::kUsage, model.name +
                                         ": wanted a model with two exits or more, found "
                                         "one: there is nothing to split");
    }
    const std::unique_ptr<Dataset> data =
        data_.empty() ? nullptr : open_dataset(data_, model.classes);
    const Gallery gallery = data ? labelled(*data) : samples();

    Tiers tiers(node_options(path), stop);
    if (stages.size() > 2) {
      tiers.start("cloud");
      std::vector<std::string> more = codec_.arguments();
      more.insert(more.end(), {"--policy", policy_.text});
      tiers.start("edge", more);
    } else {
      tiers.start("edge");
    }

    const Logger log(Tier::kDevice, Logger::Format::kText, LogLevel::kError);
    DeviceSetup setup{.model = model,
                      .stages = stages,
                      .unit = rules_.unit(model),
                      .next = {tiers.link()},
                      .options = {},
                      .log = log.callback()};
    setup.options.cut = cut_.cut();
    setup.options.pictures = model.preprocess;
    setup.options.format = codec_.format();
    setup.options.policy = policy_.policy();
    setup.options.window = 1;  // times of pictures that do not wait for one another
    const OutcomeTable table(setup, gallery.names);
    print(table.header());
    RunSummary summary(setup);
    run_device(
        setup, gallery.names.size(),
        [&](std::size_t index, std::span<float> input) {
          stop.check();
          preprocess(gallery.picture(index), model.preprocess, input.data());
          return true;
        },
        [&](std::size_t index, const Outcome& outcome) {
          print(table.line(gallery.names[index], outcome));
          summary.add(outcome,
                      gallery.labels.empty() ? std::nullopt : std::optional(gallery.labels[index]));
        });
    print("\n" + summary.text());
    tiers.stop();
    const auto complaint = summary.complaint();
    if (!complaint) return 0;
    complain(*complaint);
    return static_cast<int>(ErrorKind::kUnavailable);
  }

 private:
  Gallery samples() const {
    std::vector<std::string> files = sample_pictures();
    files.resize(std::min(files.size(), limit()));
    Gallery gallery;
    for (const fs::path file : files) gallery.names.push_back(file.filename().string());
    gallery.picture = [files](std::size_t index) { return read_picture(files[index]); };
    return gallery;
  }

  Gallery labelled(const Dataset& data) const {
    Gallery gallery;
    for (std::size_t i = 0; i < std::min(data.size(), limit()); ++i) {
      gallery.names.push_back(data.name(i));
      gallery.labels.push_back(data.label(i));
    }
    gallery.picture = [&data](std::size_t index) { return data.picture(index); };
    return gallery;
  }

  std::size_t limit() const { return static_cast<std::size_t>(limit_); }

  /// So that all three tiers run the same cascade.
  std::vector<std::string> node_options(const fs::path& model) const {
    std::vector<std::string> options = {"--model=" + fs::absolute(model).string()};
    const std::vector<std::string> rules = rules_.arguments();
    options.insert(options.end(), rules.begin(), rules.end());
    return options;
  }

  std::string data_;
  int limit_ = 20;
  ModelOption model_;
  RuleOptions rules_;
  CutOption cut_;
  CodecOptions codec_;
  PolicyOption policy_;
};

}  // namespace

std::unique_ptr<Command> make_demo(CLI::App& root) { return std::make_unique<Demo>(root); }

}  // namespace offramp::cli
