#include "net/batch_runner.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace offramp {

BatchRunner::BatchRunner(std::span<const Stage> stages, int earliest, int first, int count,
                         const TensorFormat& format, ThreadPool& pool)
    : stages_(stages),
      earliest_(static_cast<std::size_t>(earliest)),
      first_(static_cast<std::size_t>(first)),
      end_(first_ + static_cast<std::size_t>(count)),
      format_(format) {
  std::size_t largest = 0;
  const auto batch = static_cast<std::size_t>(stages[first_].plan().max_batch());
  for (std::size_t i = earliest_; i < end_; ++i) {
    memories_.push_back(stages[i].make_memory());
    memories_.back().pool = &pool;
    largest = std::max(largest, stages[i].plan().input_shape().elements());
  }
  packed_ = Buffer(largest * batch);
  index_.resize(batch);
}

// The input of a stage: the `undecided` samples that the one before has packed, then those that
// begin here. A single one stays where it is.
View BatchRunner::gather(const std::vector<Job>& jobs, std::size_t stage, int undecided) {
  const Shape shape = stages_[stage].plan().input_shape();
  const std::size_t size = shape.elements();
  const auto begins = [stage](const Job& job) { return job.cut == stage; };
  const bool alone = undecided == 0 && std::ranges::count_if(jobs, begins) == 1;
  for (std::size_t n = 0; n < jobs.size(); ++n) {
    if (!begins(jobs[n])) continue;
    const auto slot = static_cast<std::size_t>(undecided++);
    index_[slot] = static_cast<int>(n);
    if (alone) return {.data = jobs[n].input.data(), .batch = 1, .shape = shape};
    std::copy_n(jobs[n].input.data(), size, packed_.data() + slot * size);
  }
  return {.data = packed_.data(), .batch = undecided, .shape = shape};
}

std::vector<Done> BatchRunner::run(std::vector<Job> jobs) {
  std::vector<Done> done(jobs.size());
  done[0].batch = jobs.size();
  int undecided = 0;
  for (std::size_t i = earliest_; i < end_; ++i) {
    const Stage& stage = stages_[i];
    const View input = gather(jobs, i, undecided);
    if (input.batch == 0) continue;
    const Stage::Outcome outcome = stage.step(input, memories_[i - earliest_]);
    if (i < first_) {
      undecided = outcome.carry.batch;
      std::memmove(packed_.data(), outcome.carry.data, outcome.carry.elements() * sizeof(float));
      continue;
    }
    const auto classes = static_cast<std::size_t>(stage.plan().classes());
    for (std::size_t n = 0; n < outcome.decisions.size(); ++n) {
      Done& each = done[static_cast<std::size_t>(index_[n])];
      each.decision = outcome.decisions[n];
      const auto probabilities = outcome.probabilities.subspan(n * classes, classes);
      each.probabilities.assign(probabilities.begin(), probabilities.end());
      each.answers = stage.answers(outcome.doubts[n]);
      const bool audited = jobs[static_cast<std::size_t>(index_[n])].audit;
      if ((!each.answers || audited) && i + 1 == end_)
        each.carry = encode_tensor(outcome.carry.slice(static_cast<int>(n), 1), format_);
    }
    if (i + 1 < end_) undecided = pack_undecided(stage, outcome, index_, packed_.data());
  }
  for (std::size_t n = 0; n < jobs.size(); ++n) {
    jobs[n].input = Buffer();
    done[n].job = std::move(jobs[n]);
  }
  return done;
}

}  // namespace offramp
