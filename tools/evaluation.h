// Measuring a cascade on a data set. Two passes: every exit on every sample, and the cascade as it
// would run, timed and checked against the first.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/cascade.h"
#include "engine/dataset.h"
#include "engine/model.h"
#include "net/tensor_codec.h"
#include "tools/crossings.h"

namespace offramp::cli {

struct EvaluationOptions {
  std::size_t samples = 0;  ///< the first ones of the data set; at most its size
  int batch = 1;
  int threads = 1;
  bool keep_logits = false;
  /// Every tensor handed on is written so and read again, as between nodes; none: it is not.
  std::optional<TensorFormat> wire;
};

/// What every exit says of every sample.
struct ExitAnswers {
  int exits = 0;
  std::vector<Decision> decisions;  ///< [samples, exits]
  std::vector<float> doubts;        ///< [samples, exits], of each exit's rule
  std::vector<float> logits;        ///< [samples, exits, classes]; empty unless kept

  std::span<const Decision> of(std::size_t sample) const {
    const auto count = static_cast<std::size_t>(exits);
    return {decisions.data() + sample * count, count};
  }
  /// The decision the cascade is to take with the thresholds of `stages`, which have the criteria
  /// and temperatures of those that have answered.
  const Decision& taken(std::span<const Stage> stages, std::size_t sample) const;
};

struct CascadeRun {
  std::vector<Decision> decisions;   ///< [samples]
  std::vector<double> latencies_us;  ///< [samples]: of the batch a picture was in, compute only
  double mean_compute_us = 0.0;      ///< a picture; a batch's time is shared among its pictures
  double compute_rate = 0.0;         ///< pictures/s, all threads, compute only
  double overall_rate = 0.0;         ///< pictures/s, all threads, with reading and preparing
  std::vector<Crossing> crossings;   ///< [cuts]; empty without a wire
};

/// How those who took an exit fared.
struct ExitScore {
  double accuracy_all = 0.0;    ///< of this exit over all samples
  std::size_t taken = 0;        ///< samples it answered
  double share = 0.0;           ///< of all samples
  double accuracy_taken = 0.0;  ///< among them; NaN for none
  double macs = 0.0;            ///< of one of them, this exit's and all earlier segments
};

struct Score {
  std::vector<ExitScore> exits;
  double accuracy = 0.0;
  double mean_macs = 0.0;
};

/// Pass 1. Throws Error of the data set, or Error{kBadData} for numbers that a codec cannot say.
ExitAnswers answer_at_all_exits(std::span<const Stage> stages, const Model& model,
                                const Dataset& data, const EvaluationOptions& options);

/// Pass 2. Throws std::logic_error when a decision differs from that of pass 1.
CascadeRun run_and_check(std::span<const Stage> stages, const Model& model, const Dataset& data,
                         const EvaluationOptions& options, const ExitAnswers& answers);

Score score(std::span<const Stage> stages, const Dataset& data, const ExitAnswers& answers,
            std::size_t samples);

}  // namespace offramp::cli
