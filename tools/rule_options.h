// --thresholds, --criterion, --target and --nats: when exits answer.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.h"
#include "tools/options.h"

namespace offramp::cli {

struct RuleOptions {
  std::optional<std::string> thresholds;
  std::string criterion, target;  ///< empty: not given
  bool nats = false;

  void add_to(CLI::App& app);
  /// Of entropies, as the user sees them.
  EntropyUnit unit(const Model& model) const { return {nats, model.classes.size()}; }
  /// One for each exit: the model's, with what the options say laid over them. Throws
  /// Error{kUsage}.
  std::vector<ExitRule> read(const Model& model) const;
  /// What to give another process so that it does the same.
  std::vector<std::string> arguments() const;

 private:
  void lay_criterion(const Model& model, std::vector<ExitRule>& rules) const;
  void lay_thresholds(const Model& model, std::vector<ExitRule>& rules) const;
};

/// A rule's threshold as the user gives it: in `unit` when it is an entropy.
double shown_threshold(const ExitRule& rule, const EntropyUnit& unit);
/// What thresholds of `rules` are: "normalised", "nats", "margin"; "entropy, margin" for rules that
/// differ. The last rule is not looked at.
std::string threshold_unit(const std::vector<ExitRule>& rules, const EntropyUnit& unit);

}  // namespace offramp::cli
