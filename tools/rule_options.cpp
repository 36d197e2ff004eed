#include "tools/rule_options.h"

#include <algorithm>
#include <span>

#include "engine/error.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

float parse_threshold(const std::string& text, Criterion criterion, const EntropyUnit& unit) {
  const bool entropy = criterion == Criterion::kEntropy;
  const double largest = entropy ? unit.largest() : 1.0;
  const std::optional<double> value = parse_number(text);
  // Written so that NaN fails it.
  if (!value || !(*value >= 0.0 && *value <= largest)) {
    const std::string what =
        entropy ? "entropy, " + std::string(unit.name()) : criterion_name(criterion);
    throw Error(ErrorKind::kUsage, "--thresholds: wanted numbers from 0 to " +
                                       format_short(largest) + " (" + what + "), found '" + text +
                                       "'");
  }
  return entropy ? unit.normalised(*value) : static_cast<float>(*value);
}

/// Those that are asked.
std::span<ExitRule> deciding(std::vector<ExitRule>& rules) {
  return std::span(rules).first(rules.size() - 1);
}

}  // namespace

void RuleOptions::add_to(CLI::App& app) {
  app.add_option("--thresholds", thresholds,
                 "doubts below which exits answer: one for each but the\n"
                 "last, or one for all; 0 sends everything on [the model's]")
      ->type_name("T1[,T2]")
      ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kCriterionCount; ++i)
    names.emplace_back(criterion_name(static_cast<Criterion>(i)));
  app.add_option("--criterion", criterion,
                 "what doubt is: entropy; 1 - probability; 1 - margin; or\n"
                 "patience, 1 / exits in a row that agree, for where all\n"
                 "exits are in one process [the model's]")
      ->type_name("NAME")
      ->check(one_of(names));
  app.add_option("--target", target,
                 "the model's rules for so many points of accuracy below\n"
                 "the last exit (offramp inspect lists them)")
      ->type_name("POINTS");
  app.add_flag("--nats", nats, "thresholds and entropies in nats, not divided by ln(classes)");
}

std::vector<ExitRule> RuleOptions::read(const Model& model) const {
  if (!target.empty()) {
    if (thresholds || !criterion.empty()) {
      throw Error(ErrorKind::kUsage, "--target: wanted no " +
                                         std::string(thresholds ? "--thresholds" : "--criterion") +
                                         " beside it, for it says the same, found both");
    }
    return find_target(model.targets, target, model.name, "--target").rules;
  }
  std::vector<ExitRule> rules;
  for (const Exit& exit : model.graph.exits) rules.push_back(exit.rule);
  if (!criterion.empty()) lay_criterion(model, rules);
  if (thresholds) lay_thresholds(model, rules);
  return rules;
}

void RuleOptions::lay_criterion(const Model& model, std::vector<ExitRule>& rules) const {
  const Criterion wanted = criterion_named(criterion).value();
  for (ExitRule& rule : deciding(rules)) {
    if (rule.criterion != wanted && !thresholds) {
      throw Error(ErrorKind::kUsage,
                  "--criterion " + criterion + ": wanted --thresholds beside it, as those of " +
                      model.name + " are for " + criterion_name(rule.criterion) + ", found none");
    }
    rule.criterion = wanted;
  }
}

void RuleOptions::lay_thresholds(const Model& model, std::vector<ExitRule>& rules) const {
  const std::span<ExitRule> asked = deciding(rules);
  const std::vector<std::string> parts = split(*thresholds, ',');
  if (parts.size() != 1 && parts.size() != asked.size()) {
    const std::string wanted =
        asked.size() <= 1 ? "1 value" : "1 or " + std::to_string(asked.size()) + " values";
    throw Error(ErrorKind::kUsage,
                "--thresholds: wanted " + wanted + ", found " + std::to_string(parts.size()) +
                    " in '" + *thresholds + "' (" + model.name + " has " +
                    std::to_string(asked.size() + 1) + " exits, the last always answers)");
  }
  const EntropyUnit entropy_unit = unit(model);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (nats && asked[i].criterion != Criterion::kEntropy) {
      throw Error(ErrorKind::kUsage, "--nats: wanted thresholds of entropy, found those of " +
                                         std::string(criterion_name(asked[i].criterion)));
    }
    asked[i].threshold =
        parse_threshold(parts[std::min(i, parts.size() - 1)], asked[i].criterion, entropy_unit);
  }
  // A network without early exits has nothing to decide, and wants to be told of nonsense, too.
  if (asked.empty()) parse_threshold(parts[0], Criterion::kEntropy, entropy_unit);
}

std::vector<std::string> RuleOptions::arguments() const {
  std::vector<std::string> arguments;
  if (thresholds) arguments.push_back("--thresholds=" + *thresholds);
  if (!criterion.empty()) arguments.push_back("--criterion=" + criterion);
  if (!target.empty()) arguments.push_back("--target=" + target);
  if (nats) arguments.push_back("--nats");
  return arguments;
}

double shown_threshold(const ExitRule& rule, const EntropyUnit& unit) {
  const auto threshold = static_cast<double>(rule.threshold);
  return rule.criterion == Criterion::kEntropy ? unit.shown(threshold) : threshold;
}

std::string threshold_unit(const std::vector<ExitRule>& rules, const EntropyUnit& unit) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i + 1 < rules.size(); ++i) {
    const Criterion criterion = rules[i].criterion;
    names.emplace_back(criterion == Criterion::kEntropy ? unit.name() : criterion_name(criterion));
  }
  const bool alike = std::ranges::adjacent_find(names, std::ranges::not_equal_to{}) == names.end();
  if (alike && !names.empty()) names.resize(1);
  return join(names, ", ");
}

}  // namespace offramp::cli
