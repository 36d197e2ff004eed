// offramp eval: accuracy of every exit, and what the cascade does on a labelled data set.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/error.h"
#include "kernels/kernels.h"
#include "tools/codec_options.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/decisions.h"
#include "tools/evaluation.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/rule_options.h"
#include "tools/statistics.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using enum Table::Align;

/// Thresholds that --sweep tries: normalised, or the prototype's list in nats.
std::vector<double> sweep_thresholds(bool nats) {
  if (nats) return {0, 1e-15, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1};
  return {0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
}

struct SweepPoint {
  double threshold = 0.0;  ///< in the user's unit
  Score score;
  double mean_ms = 0.0;
  double macs_share = 1.0;  ///< of those without early exits, that is of the threshold 0
  double time_share = 1.0;
};

/// All that is said about one evaluation.
struct Report {
  const Model& model;
  std::span<const Stage> stages;
  std::string data;
  EntropyUnit unit;
  std::vector<ExitRule> rules;
  std::string target;  ///< whose rules they are; empty: nobody's
  PlanOptions plan;
  std::string isa;
  EvaluationOptions options;
  std::vector<double> thresholds;  ///< as the user gives them, one for each exit but the last
  Score score;
  CascadeRun run;
  std::vector<SweepPoint> sweep;
};

std::string percent_or_dash(double fraction) {
  return std::isnan(fraction) ? "-" : format_percent(fraction);
}

Json exits_json(const Report& report) {
  Json exits = Json::array();
  for (std::size_t i = 0; i < report.score.exits.size(); ++i) {
    const ExitScore& exit = report.score.exits[i];
    exits.push_back({{"name", report.model.graph.exits[i].name},
                     {"accuracy", exit.accuracy_all},
                     {"taken", exit.taken},
                     {"share", exit.share},
                     {"accuracy_taken", exit.accuracy_taken},
                     {"macs", exit.macs}});
  }
  return exits;
}

Json sweep_json(const Report& report) {
  Json points = Json::array();
  for (const SweepPoint& point : report.sweep) {
    Json shares = Json::array();
    for (const ExitScore& exit : point.score.exits) shares.push_back(exit.share);
    points.push_back({{"threshold", point.threshold},
                      {"accuracy", point.score.accuracy},
                      {"shares", shares},
                      {"mean_macs", point.score.mean_macs},
                      {"mean_ms", point.mean_ms},
                      {"macs_share", point.macs_share},
                      {"time_share", point.time_share}});
  }
  return points;
}

Json to_json(const Report& report) {
  const Distribution latency = distribution(report.run.latencies_us);
  Json criteria = Json::array(), temperatures = Json::array();
  for (std::size_t i = 0; i < report.rules.size(); ++i) {
    if (i < report.thresholds.size()) criteria.push_back(criterion_name(report.rules[i].criterion));
    temperatures.push_back(report.rules[i].temperature);
  }
  Json value = {
      {"model", report.model.name},
      {"id", short_id(report.model.id)},
      {"data", report.data},
      {"samples", report.options.samples},
      {"unit", report.unit.name()},
      {"thresholds", report.thresholds},
      {"criteria", criteria},
      {"temperatures", temperatures},
      {"batch", report.options.batch},
      {"threads", report.options.threads},
      {"isa", report.isa},
      {"convolution", to_string(report.plan.convolution)},
      {"exits", exits_json(report)},
      {"accuracy", report.score.accuracy},
      {"mean_macs", report.score.mean_macs},
      {"mean_compute_ms", report.run.mean_compute_us / 1e3},
      {"latency_ms",
       {{"mean", latency.mean / 1e3}, {"p50", latency.p50 / 1e3}, {"p99", latency.p99 / 1e3}}},
      {"pictures_per_second",
       {{"compute", report.run.compute_rate}, {"overall", report.run.overall_rate}}}};
  if (report.options.wire) {
    value["codec"] = to_string(*report.options.wire);
    value["cuts"] = crossings_json(report.stages, report.run.crossings);
  }
  if (!report.target.empty()) value["target"] = report.target;
  if (!report.sweep.empty()) value["sweep"] = sweep_json(report);
  return value;
}

std::string head_text(const Report& report) {
  std::string thresholds;
  for (double threshold : report.thresholds) {
    thresholds += (thresholds.empty() ? "" : ", ") + format_short(threshold);
  }
  std::string text = styled(Style::kBold, report.model.name) + " (" + short_id(report.model.id) +
                     "), " + format_grouped(report.options.samples) + " pictures of " + report.data;
  if (!thresholds.empty()) {
    text += ", thresholds " + thresholds + " (" + threshold_unit(report.rules, report.unit) + ")";
  }
  if (!report.target.empty()) text += ", target " + report.target;
  return text + "\n\n";
}

std::string exits_text(const Report& report) {
  Table table({{"EXIT"},
               {"ACCURACY ON ALL", kRight},
               {"TOOK IT", kRight},
               {"SHARE", kRight},
               {"ACCURACY OF THESE", kRight},
               {"MACS EACH", kRight}});
  for (std::size_t i = 0; i < report.score.exits.size(); ++i) {
    const ExitScore& exit = report.score.exits[i];
    table.add({report.model.graph.exits[i].name, format_percent(exit.accuracy_all),
               format_grouped(exit.taken), format_percent(exit.share),
               percent_or_dash(exit.accuracy_taken), format_macs(exit.macs)});
  }
  table.add({"cascade", "", format_grouped(report.options.samples), format_percent(1.0),
             format_percent(report.score.accuracy), format_macs(report.score.mean_macs)},
            Style::kBold);
  return table.text();
}

std::string speed_text(const Report& report) {
  const EvaluationOptions& options = report.options;
  const std::string how = report.isa + ", " + to_string(report.plan.convolution) + ", batch " +
                          std::to_string(options.batch) + ", " + std::to_string(options.threads) +
                          (options.threads == 1 ? " thread" : " threads") +
                          (options.wire ? ", over a wire as " + to_string(*options.wire) : "");
  return "\nlatency   " + format_times(distribution(report.run.latencies_us)) + "  (" + how +
         ")\nspeed     " + format_fixed(report.run.compute_rate, 0) + " pictures/s; " +
         format_fixed(report.run.overall_rate, 0) + " with reading and preparing them\n" +
         crossings_text(report.stages, report.run.crossings);
}

std::string sweep_text(const Report& report) {
  std::vector<Table::Column> columns = {{"T", kRight}, {"ACCURACY", kRight}};
  for (const Exit& exit : report.model.graph.exits) columns.push_back({"AT " + exit.name, kRight});
  columns.push_back({"MEAN MACS", kRight});
  columns.push_back({"OF ALL", kRight});
  columns.push_back({"MEAN TIME", kRight});
  columns.push_back({"OF ALL", kRight});
  Table table(columns);
  for (const SweepPoint& point : report.sweep) {
    std::vector<std::string> cells = {format_short(point.threshold),
                                      format_percent(point.score.accuracy)};
    for (const ExitScore& exit : point.score.exits) cells.push_back(format_percent(exit.share));
    cells.push_back(format_macs(point.score.mean_macs));
    cells.push_back(format_percent(point.macs_share));
    cells.push_back(format_fixed(point.mean_ms, 3) + " ms");
    cells.push_back(format_percent(point.time_share));
    table.add(cells);
  }
  return "\n" + styled(Style::kBold, "One threshold for all exits") + " (" +
         threshold_unit(report.rules, report.unit) + ")\n" + table.text();
}

/// Little-endian float32, whatever this machine is.
void write_logits(OutputFile& file, const std::vector<float>& logits) {
  std::string bytes;
  bytes.reserve(logits.size() * sizeof(float));
  for (float logit : logits) {
    const auto bits = std::bit_cast<std::uint32_t>(logit);
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>((bits >> shift) & 0xFFu));
    }
  }
  file.write(bytes);
  file.close();
}

class Eval : public Command {
 public:
  explicit Eval(CLI::App& root)
      : Command(root.add_subcommand(
            "eval", "Measure accuracy, early exits and speed on a labelled data set")) {
    app()
        ->add_option("-d,--data", data_,
                     "CIFAR-10's binary layout, or a folder with one subfolder per class")
        ->required()
        ->type_name("DIR");
    model_.add_to(*app());
    rules_.add_to(*app());
    app()->add_flag("--sweep", sweep_, "also try a list of thresholds, one for all exits");
    add_count(*app(), "--limit", limit_, 1, 1'000'000'000, "only the first N pictures");
    add_count(*app(), "--batch", batch_, 1, 1024, "pictures computed together [1]");
    add_count(*app(), "--threads", threads_, 1, 256, "threads, each with batches of its own [1]");
    codec_.add_to(*app());
    compute_.add_tune_to(*app());
    app()
        ->add_option("--logits", logits_,
                     "write all logits: little-endian float32 [samples, exits, classes]")
        ->type_name("FILE");
    app()
        ->add_option("--decisions", decisions_,
                     "write the cascade's decisions as CSV, exact to the bit")
        ->type_name("FILE");
    app()->add_flag("--json", json_, "one JSON object");
    app()->footer(
        "Examples:\n"
        "  offramp eval --data cifar-10-batches-bin\n"
        "  offramp eval --data cifar-10-batches-bin --sweep --threads 2\n"
        "  offramp eval --data cifar-10-batches-bin --target 0.3\n"
        "  offramp eval --data cifar-10-batches-bin --codec u8 --lz4\n"
        "  offramp eval --data pictures --thresholds 0.1,0.3 --limit 500 --json");
  }

  int run() override {
    const Model model = load_model(model_.path());
    const PlanOptions plan = compute_.plan(model, batch_);
    const std::vector<ExitRule> rules = rules_.read(model);
    const std::vector<Stage> stages = compile_stages(model, rules, plan);
    if (sweep_ && rules_.nats && threshold_unit(rules, rules_.unit(model)) != "nats") {
      throw Error(ErrorKind::kUsage, "--nats: wanted a sweep of entropies, found one of " +
                                         threshold_unit(rules, rules_.unit(model)));
    }
    if (sweep_ && stages.size() == 1) {
      throw Error(ErrorKind::kUsage, "--sweep: wanted a model with early exits, found that " +
                                         model.name + " has one exit");
    }
    const std::unique_ptr<Dataset> data = open_dataset(data_, model.classes);
    std::optional<OutputFile> logits_file, decisions_file;
    if (!logits_.empty()) logits_file.emplace(logits_);
    if (!decisions_.empty()) decisions_file.emplace(decisions_);

    Report report{.model = model,
                  .stages = stages,
                  .data = data_,
                  .unit = rules_.unit(model),
                  .rules = rules,
                  .target = rules_.target,
                  .plan = plan,
                  .isa = stages.front().plan().kernels().name,
                  .options = evaluation_options(*data),
                  .thresholds = {},
                  .score = {},
                  .run = {},
                  .sweep = {}};
    for (std::size_t i = 0; i + 1 < rules.size(); ++i)
      report.thresholds.push_back(shown_threshold(rules[i], report.unit));
    const ExitAnswers answers = answer_at_all_exits(stages, model, *data, report.options);
    report.score = score(stages, *data, answers, report.options.samples);
    report.run = run_and_check(stages, model, *data, report.options, answers);
    if (logits_file) write_logits(*logits_file, answers.logits);
    if (decisions_file) write(*decisions_file, report.run.decisions);
    if (sweep_) report.sweep = sweep(report, *data, answers);
    show(report);
    return 0;
  }

 private:
  EvaluationOptions evaluation_options(const Dataset& data) const {
    EvaluationOptions options;
    options.samples = data.size();
    if (limit_ > 0) options.samples = std::min(options.samples, static_cast<std::size_t>(limit_));
    options.batch = batch_;
    options.threads = threads_;
    options.keep_logits = !logits_.empty();
    if (codec_.given()) options.wire = codec_.format();
    if (options.samples == 0) {
      throw Error(ErrorKind::kBadData, data_ + ": wanted pictures, found none");
    }
    return options;
  }

  static std::vector<SweepPoint> sweep(const Report& report, const Dataset& data,
                                       const ExitAnswers& answers) {
    std::vector<SweepPoint> points;
    std::vector<ExitRule> rules = report.rules;
    for (double threshold : sweep_thresholds(report.unit.nats)) {
      if (threshold > report.unit.largest()) continue;
      for (ExitRule& rule : rules) rule.threshold = report.unit.normalised(threshold);
      const std::vector<Stage> stages = compile_stages(report.model, rules, report.plan);
      SweepPoint point;
      point.threshold = threshold;
      point.score = score(stages, data, answers, report.options.samples);
      const CascadeRun run = run_and_check(stages, report.model, data, report.options, answers);
      point.mean_ms = run.mean_compute_us / 1e3;
      if (!points.empty()) {  // the first threshold is 0
        point.macs_share = point.score.mean_macs / points.front().score.mean_macs;
        point.time_share = point.mean_ms / points.front().mean_ms;
      }
      points.push_back(std::move(point));
    }
    return points;
  }

  static void write(OutputFile& file, const std::vector<Decision>& decisions) {
    std::vector<DecisionRow> rows;
    for (const Decision& decision : decisions) rows.push_back({rows.size(), decision, "ok"});
    write_decisions(file, rows);
  }

  void show(const Report& report) const {
    if (json_) {
      print_json(to_json(report), 2);
      return;
    }
    print(head_text(report) + exits_text(report) + speed_text(report) +
          (report.sweep.empty() ? "" : sweep_text(report)));
  }

  std::string data_;
  ModelOption model_;
  RuleOptions rules_;
  CodecOptions codec_;      ///< given: as if the tiers were apart
  ComputeOptions compute_;  ///< of one batch, which a thread computes alone
  bool sweep_ = false;
  int limit_ = 0;
  int batch_ = 1;
  int threads_ = 1;
  std::string logits_;
  std::string decisions_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval(CLI::App& root) { return std::make_unique<Eval>(root); }

}  // namespace offramp::cli
