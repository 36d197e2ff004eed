// The options of every command that computes: threads, instruction set, algorithms.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/model.h"
#include "engine/plan.h"

namespace offramp::cli {

/// `--threads` and `--tune`, beside OFFRAMP_ISA and OFFRAMP_CONV.
struct ComputeOptions {
  int threads = 1;
  bool tune = false;

  void add_to(CLI::App& app);
  void add_tune_to(CLI::App& app);
  /// Measures, or reads what was measured before, when asked to. Throws Error{kUsage}.
  PlanOptions plan(const Model& model, int max_batch) const;
};

}  // namespace offramp::cli
