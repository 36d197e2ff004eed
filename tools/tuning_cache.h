// Tuning results on disk, so that a machine measures a network once.
#pragma once

#include <filesystem>
#include <optional>

#include "engine/model.h"
#include "engine/plan.h"

namespace offramp::cli {

/// Where and for what a tuning holds: this CPU, this model, and how it is run.
struct TuningKey {
  std::string cpu;    ///< name, family, model and stepping
  std::string isa;    ///< name of the kernel table
  std::string model;  ///< its id in hexadecimal
  int batch = 1;
  int threads = 1;
};

TuningKey tuning_key(const Model& model, const PlanOptions& options);

/// A file of $XDG_CACHE_HOME/offramp or ~/.cache/offramp; nothing when neither is known.
std::optional<std::filesystem::path> tuning_file(const TuningKey& key);

/// What the file holds. Nothing when there is none; nothing and a line on stderr when it is damaged
/// or was made for something else. A convolution that it does not name, or names with an algorithm
/// that cannot compute it, is left to the cost model.
std::optional<ConvPaths> load_tuning(const std::filesystem::path& file, const TuningKey& key,
                                     const Model& model);

/// Replaces the file as a whole. A line on stderr when that fails.
void save_tuning(const std::filesystem::path& file, const TuningKey& key, const ConvPaths& paths);

}  // namespace offramp::cli
