#include "tools/compute_options.h"

#include <filesystem>
#include <optional>

#include "engine/error.h"
#include "engine/tuning.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/tuning_cache.h"

namespace offramp::cli {

void ComputeOptions::add_to(CLI::App& app) {
  add_count(app, "--threads", threads, 1, 256,
            "threads that share a picture's layers, or a\nbatch's pictures [1]");
  add_tune_to(app);
}

void ComputeOptions::add_tune_to(CLI::App& app) {
  app.add_flag("--tune", tune,
               "choose each convolution's algorithm by measuring;\n"
               "once for a machine, model and batch, then from\n~/.cache/offramp");
}

PlanOptions ComputeOptions::plan(const Model& model, int max_batch) const {
  PlanOptions options = plan_options_from_environment();
  options.max_batch = max_batch;
  options.threads = threads;
  if (!tune) return options;
  if (options.convolution != ConvAlgorithm::kAuto) {
    throw Error(ErrorKind::kUsage, "--tune: wanted OFFRAMP_CONV unset or auto, found " +
                                       std::string(to_string(options.convolution)));
  }
  const TuningKey key = tuning_key(model, options);
  const std::optional<std::filesystem::path> file = tuning_file(key);
  std::optional<ConvPaths> paths;
  if (file) paths = load_tuning(*file, key, model);
  if (!paths) {
    log("offramp: measuring the convolutions of " + model.name + " ...");
    paths = offramp::tune(model, options);
    if (file) save_tuning(*file, key, *paths);
  }
  options.paths = std::move(*paths);
  return options;
}

}  // namespace offramp::cli
