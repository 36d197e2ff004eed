// offramp profile: where the time of a network goes, layer by layer.

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "engine/peak.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/statistics.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using SteadyClock = std::chrono::steady_clock;
using enum Table::Align;

/// A step with its median time, of the whole batch.
struct Row {
  const char* tier;
  StepInfo step;
  double ns = 0.0;
};

struct Report {
  std::string model;
  std::string isa;
  int batch, threads;
  int runs = 0;
  double peak_macs = 0.0;  ///< a second, one core
  double total_ns = 0.0;   ///< median of the whole runs on the wall, clocks included
  std::vector<Row> rows;

  double gflops(double macs, double ns) const { return 2.0 * macs * batch / ns; }
  /// Of what all threads could do.
  double of_peak(double macs, double ns) const {
    return macs * batch / ns * 1e9 / (peak_macs * threads);
  }
  /// Activations of the batch, and the weights once; GB/s.
  double bandwidth(const StepInfo& step, double ns) const {
    return (static_cast<double>(step.moved_bytes) * batch +
            static_cast<double>(step.weight_bytes)) /
           ns;
  }
};

/// All exits compute their logits, and nobody leaves early.
class Network {
 public:
  Network(const std::vector<Stage>& stages, int batch, int threads)
      : stages_(stages), batch_(batch), pool_(threads) {
    const Shape input = stages.front().plan().input_shape();
    input_ = std::vector<float>(input.elements() * static_cast<std::size_t>(batch));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& value : input_) value = normal(random);
    for (const Stage& stage : stages) workspaces_.push_back(stage.plan().make_workspace());
  }

  /// A clock for each stage.
  std::vector<StepClock> make_clocks() const {
    std::vector<StepClock> clocks;
    for (const Stage& stage : stages_) {
      clocks.emplace_back(static_cast<int>(stage.plan().steps().size()), pool_.threads());
    }
    return clocks;
  }

  /// Nanoseconds that all stages took together.
  double run(std::vector<StepClock>& clocks) {
    const auto begin = SteadyClock::now();
    View value{input_.data(), batch_, stages_.front().plan().input_shape()};
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      value = stages_[i].plan().run(value, workspaces_[i], &pool_, &clocks[i]).carry;
    }
    return std::chrono::duration<double, std::nano>(SteadyClock::now() - begin).count();
  }

 private:
  const std::vector<Stage>& stages_;
  int batch_;
  ThreadPool pool_;
  std::vector<float> input_;
  std::vector<Workspace> workspaces_;
};

void measure(const std::vector<Stage>& stages, std::chrono::duration<double> duration,
             Report& report) {
  Network network(stages, report.batch, report.threads);
  std::vector<std::vector<double>> times;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    for (StepInfo& step : stages[s].plan().steps()) {
      report.rows.push_back({tier_of(s), std::move(step)});
    }
  }
  times.resize(report.rows.size());
  std::vector<double> totals;
  const std::vector<StepClock> unused = network.make_clocks();
  std::vector<StepClock> clocks = unused;
  network.run(clocks);  // touches every page first
  const auto end = SteadyClock::now() + duration;
  do {
    clocks = unused;
    totals.push_back(network.run(clocks));
    std::size_t row = 0;
    for (std::size_t s = 0; s < stages.size(); ++s) {
      const int count = static_cast<int>(stages[s].plan().steps().size());
      for (int i = 0; i < count; ++i, ++row) times[row].push_back(clocks[s].nanoseconds(i));
    }
  } while (SteadyClock::now() < end);
  report.runs = static_cast<int>(totals.size());
  report.total_ns = distribution(totals).p50;
  for (std::size_t i = 0; i < times.size(); ++i) report.rows[i].ns = distribution(times[i]).p50;
}

Json to_json(const Report& report) {
  Json steps = Json::array();
  double macs = 0.0;
  for (const Row& row : report.rows) {
    macs += row.step.macs;
    steps.push_back({{"tier", row.tier},
                     {"layer", row.step.layer},
                     {"op", row.step.op},
                     {"algorithm", row.step.algorithm},
                     {"in", to_string(row.step.in)},
                     {"out", to_string(row.step.out)},
                     {"samples_at_once", row.step.samples},
                     {"macs", row.step.macs},
                     {"weight_bytes", row.step.weight_bytes},
                     {"us", row.ns / 1e3},
                     {"gflops", report.gflops(row.step.macs, row.ns)},
                     {"of_peak", report.of_peak(row.step.macs, row.ns)},
                     {"gbytes_per_second", report.bandwidth(row.step, row.ns)}});
  }
  return {{"model", report.model},
          {"isa", report.isa},
          {"batch", report.batch},
          {"threads", report.threads},
          {"runs", report.runs},
          {"peak_gflops_one_core", 2.0 * report.peak_macs / 1e9},
          {"total_us", report.total_ns / 1e3},
          {"gflops", report.gflops(macs, report.total_ns)},
          {"of_peak", report.of_peak(macs, report.total_ns)},
          {"steps", steps}};
}

std::string to_text(const Report& report) {
  Table table({{"TIER"},
               {"LAYER"},
               {"ALGORITHM"},
               {"IN"},
               {"OUT"},
               {"TIME", kRight},
               {"SHARE", kRight},
               {"GFLOP/S", kRight},
               {"OF PEAK", kRight},
               {"GB/S", kRight}});
  double macs = 0.0, rest_ns = report.total_ns;
  for (const Row& row : report.rows) {
    const StepInfo& step = row.step;
    macs += step.macs;
    rest_ns -= row.ns;
    const bool computes = step.macs > 0.0;
    table.add({row.tier, step.layer, step.algorithm.empty() ? step.op : step.algorithm,
               to_string(step.in), to_string(step.out), format_fixed(row.ns / 1e3, 1) + " us",
               format_percent(row.ns / report.total_ns),
               computes ? format_fixed(report.gflops(step.macs, row.ns), 1) : "",
               computes ? format_percent(report.of_peak(step.macs, row.ns)) : "",
               format_fixed(report.bandwidth(step, row.ns), 1)});
  }
  // Medians do not add up, so that it may be a little less than nothing.
  table.add({"", "between layers", "", "", "", format_fixed(rest_ns / 1e3, 1) + " us",
             format_percent(rest_ns / report.total_ns), "", "", ""});
  table.add({"total", "", "", "", "", format_fixed(report.total_ns / 1e3, 1) + " us", "",
             format_fixed(report.gflops(macs, report.total_ns), 1),
             format_percent(report.of_peak(macs, report.total_ns)), ""},
            Style::kBold);
  return styled(Style::kBold, report.model) + ", batch " + std::to_string(report.batch) + ", " +
         std::to_string(report.threads) + (report.threads == 1 ? " thread, " : " threads, ") +
         report.isa + ", all exits computed; medians of " + std::to_string(report.runs) +
         " runs\nPeak of one core " + format_fixed(2.0 * report.peak_macs / 1e9, 1) +
         " GFLOP/s; operations are counted as a direct convolution needs them, so that Winograd\n"
         "can exceed it. GB/s: activations read and written, weights once." +
         (report.threads == 1 ? "" : " Of threads that wait for others, layers show the mean.") +
         "\n\n" + table.text();
}

class Profile : public Command {
 public:
  explicit Profile(CLI::App& root)
      : Command(root.add_subcommand("profile", "Measure every layer: time, speed, share of peak")) {
    app()
        ->add_option("MODEL", model_.text,
                     "model file [OFFRAMP_MODEL, else weights/resnet20b.safetensors]")
        ->option_text(" ");
    add_count(*app(), "--batch", batch_, 1, 1024, "pictures computed together [1]");
    compute_.add_to(*app());
    app()->add_option("--for", duration_, "how long to measure [1s]")->type_name("DURATION");
    app()->add_flag("--json", json_, "one JSON object");
    app()->footer(
        "Examples:\n"
        "  offramp profile\n"
        "  offramp profile weights/resnet20b.safetensors --batch 32 --threads 2\n"
        "  OFFRAMP_CONV=direct offramp profile --for 5s --json");
  }

  int run() override {
    const std::chrono::microseconds duration = parse_duration("--for", duration_);
    const Model model = load_model(model_.path());
    const PlanOptions plan = compute_.plan(model, batch_);
    const std::vector<Stage> stages = make_stages(model, {}, plan);
    const KernelTable& kernels = stages.front().plan().kernels();
    Report report{.model = model.name,
                  .isa = kernels.name,
                  .batch = batch_,
                  .threads = plan.threads,
                  .peak_macs = measure_peak_macs(kernels),
                  .rows = {}};
    measure(stages, duration, report);
    if (json_) {
      print_json(to_json(report), 2);
    } else {
      print(to_text(report));
    }
    return 0;
  }

 private:
  ModelOption model_;
  ComputeOptions compute_;
  int batch_ = 1;
  std::string duration_ = "1s";
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_profile(CLI::App& root) { return std::make_unique<Profile>(root); }

}  // namespace offramp::cli
