// --next, --policy and --cut: which nodes a device or an edge hands on to, when and what.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "net/cut_choice.h"
#include "net/policy.h"

namespace offramp::cli {

/// `--policy`.
struct PolicyOption {
  std::string text = policy_name(Policy::kBalanced);

  void add_to(CLI::App& app);
  Policy policy() const;
};

/// `--cut`.
struct CutOption {
  std::string text = cut_name(Cut::kTensor);

  void add_to(CLI::App& app);
  Cut cut() const;
};

/// `--next`, given several times or with commas.
struct NextOption {
  std::vector<std::string> texts;

  void add_to(CLI::App& app, const std::string& tier);
  /// As net/ wants them. Throws Error{kUsage}.
  std::vector<std::string> endpoints() const;
};

}  // namespace offramp::cli
