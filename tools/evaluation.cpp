#include "tools/evaluation.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

/// Feeds batches to threads: which thread gets which batch depends on timing, results must not.
class BatchFeeder {
 public:
  BatchFeeder(const Model& model, const Dataset& data, const EvaluationOptions& options,
              Progress& progress)
      : model_(model), data_(data), options_(options), progress_(progress) {}

  /// `make()` gives each thread its work, with that thread's memory: a callable that takes the
  /// index of a batch's first sample and the batch. Throws the first exception of any thread, once
  /// all have ended.
  template <typename Make>
  void run(const Make& make) {
    {
      std::vector<std::jthread> threads;
      try {
        for (int i = 1; i < options_.threads; ++i) threads.emplace_back([&] { guarded(make); });
      } catch (...) {
        next_.store(options_.samples);
        throw;
      }
      guarded(make);
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  template <typename Make>
  void guarded(const Make& make) {
    try {
      auto work = make();
      feed(work);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failing_);
      if (!failure_) failure_ = std::current_exception();
      next_.store(options_.samples);
    }
  }

  template <typename Work>
  void feed(Work& work) {
    const auto batch = static_cast<std::size_t>(options_.batch);
    const Shape shape = model_.preprocess.input;
    std::vector<float> input(batch * shape.elements());
    for (;;) {
      const std::size_t first = next_.fetch_add(batch);
      if (first >= options_.samples) return;
      const std::size_t count = std::min(batch, options_.samples - first);
      for (std::size_t i = 0; i < count; ++i) {
        preprocess(data_.picture(first + i), model_.preprocess,
                   input.data() + i * shape.elements());
      }
      work(first, {input.data(), static_cast<int>(count), shape});
      progress_.advance(count);
    }
  }

  const Model& model_;
  const Dataset& data_;
  const EvaluationOptions& options_;
  Progress& progress_;
  std::atomic<std::size_t> next_{0};
  std::mutex failing_;
  std::exception_ptr failure_;
};

/// The way from one tier to the next, for one thread.
class SimulatedWire {
 public:
  SimulatedWire(std::span<const Stage> stages, const Dataset& data,
                const EvaluationOptions& options)
      : data_(data), format_(options.wire.value()) {
    std::size_t largest = 0;
    for (const Stage& stage : stages)
      largest = std::max(largest, stage.plan().carry_shape().elements());
    received_ = Buffer(largest * static_cast<std::size_t>(options.batch));
  }

  /// What the next tier receives of `carry`, the samples of the data set from `first` on. Valid
  /// until the next call. Throws Error{kBadData} when it would refuse it.
  View cross(View carry, std::size_t first) {
    const std::size_t elements = carry.shape.elements();
    for (int i = 0; i < carry.batch; ++i) {
      const WireTensor sent = encode_tensor(carry.slice(i, 1), format_);
      message_bytes_ = kFixedHeaderBytes + sent.payload.size();
      const std::span<float> out(received_.data() + static_cast<std::size_t>(i) * elements,
                                 elements);
      if (const auto error = decode_tensor(sent, carry.shape, out)) {
        throw Error(ErrorKind::kBadData, data_.name(first + static_cast<std::size_t>(i)) + ": " +
                                             describe(*error, sent, carry.shape));
      }
    }
    return {received_.data(), carry.batch, carry.shape};
  }

  /// Both frames of the last sample.
  std::size_t message_bytes() const { return message_bytes_; }

 private:
  const Dataset& data_;
  TensorFormat format_;
  Buffer received_;
  std::size_t message_bytes_ = 0;
};

/// run_cascade() with a wire between the stages, over which samples go one by one. `bytes` [cuts]
/// gets the size of each message.
Decision run_over_wire(std::span<const Stage> stages, View sample, std::size_t index,
                       CascadeMemory& memory, SimulatedWire& wire, std::span<std::uint64_t> bytes) {
  for (std::size_t s = 0;; ++s) {
    memory.stages[s].streaks[0] = s == 0 ? Streak{} : memory.stages[s - 1].streaks[0];
    const Stage::Outcome outcome = stages[s].step(sample, memory.stages[s]);
    if (stages[s].answers(outcome.doubts[0])) return outcome.decisions[0];
    sample = wire.cross(outcome.carry, index);
    bytes[s] = wire.message_bytes();
  }
}

std::unique_ptr<SimulatedWire> make_wire(std::span<const Stage> stages, const Dataset& data,
                                         const EvaluationOptions& options) {
  return options.wire ? std::make_unique<SimulatedWire>(stages, data, options) : nullptr;
}

/// Bit for bit, so that a NaN equals itself.
bool same(const Decision& a, const Decision& b) {
  const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value); };
  return a.label == b.label && a.exit == b.exit && bits(a.probability) == bits(b.probability) &&
         bits(a.entropy) == bits(b.entropy);
}

std::string describe(const Decision& decision) {
  return "class " + std::to_string(decision.label) + " at exit " + std::to_string(decision.exit) +
         " with probability " + format_hex(decision.probability) + " and entropy " +
         format_hex(decision.entropy);
}

void check_same(const Dataset& data, const CascadeRun& run, std::span<const Stage> stages,
                const ExitAnswers& answers) {
  for (std::size_t i = 0; i < run.decisions.size(); ++i) {
    const Decision& wanted = answers.taken(stages, i);
    if (same(run.decisions[i], wanted)) continue;
    throw std::logic_error(data.name(i) + ": the cascade wanted " + describe(wanted) + ", found " +
                           describe(run.decisions[i]));
  }
}

/// The first run pays for page faults and cold caches, which no later one does.
void warm_up(std::span<const Stage> stages, CascadeMemory& memory, const Shape& shape) {
  const std::vector<float> zeros(shape.elements(), 0.0f);
  Decision ignored;
  run_cascade(stages, {zeros.data(), 1, shape}, memory, {&ignored, 1});
}

}  // namespace

const Decision& ExitAnswers::taken(std::span<const Stage> stages, std::size_t sample) const {
  const std::span<const Decision> decisions_here = of(sample);
  const float* const doubts_here = doubts.data() + sample * decisions_here.size();
  std::size_t exit = 0;
  while (!stages[exit].answers(doubts_here[exit])) ++exit;
  return decisions_here[exit];
}

ExitAnswers answer_at_all_exits(std::span<const Stage> stages, const Model& model,
                                const Dataset& data, const EvaluationOptions& options) {
  const std::size_t exits = stages.size();
  const std::size_t classes = model.classes.size();
  ExitAnswers answers;
  answers.exits = static_cast<int>(exits);
  answers.decisions.resize(options.samples * exits);
  answers.doubts.resize(options.samples * exits);
  if (options.keep_logits) answers.logits.resize(options.samples * exits * classes);

  const auto make = [&] {
    return [&, memory = make_cascade_memory(stages), softmax = std::vector<float>(classes),
            wire = make_wire(stages, data, options)](std::size_t first, View carry) mutable {
      const int batch = carry.batch;
      std::ranges::fill(memory.streaks, Streak{});
      for (std::size_t exit = 0; exit < exits; ++exit) {
        const Plan& plan = stages[exit].plan();
        const Plan::Outputs outputs = plan.run(carry, memory.stages[exit].workspace);
        for (int i = 0; i < batch; ++i) {
          const std::span<const float> logits(outputs.logits.slice(i, 1).data, classes);
          const std::size_t row = (first + static_cast<std::size_t>(i)) * exits + exit;
          const ExitRule rule = stages[exit].rule();
          Decision& decision = answers.decisions[row];
          decision = decide(plan.kernels(), logits, stages[exit].exit(), softmax, rule.temperature);
          Streak& streak = memory.streaks[static_cast<std::size_t>(i)];
          streak.add(decision);
          answers.doubts[row] = doubt(rule.criterion, decision, softmax, streak);
          if (options.keep_logits) std::ranges::copy(logits, &answers.logits[row * classes]);
        }
        carry = outputs.carry;
        if (wire && exit + 1 < exits) carry = wire->cross(carry, first);
      }
    };
  };
  Progress progress("every exit", options.samples);
  BatchFeeder(model, data, options, progress).run(make);
  return answers;
}

CascadeRun run_and_check(std::span<const Stage> stages, const Model& model, const Dataset& data,
                         const EvaluationOptions& options, const ExitAnswers& answers) {
  CascadeRun run;
  run.decisions.resize(options.samples);
  run.latencies_us.resize(options.samples);
  const std::size_t cuts = options.wire ? stages.size() - 1 : 0;
  std::vector<std::uint64_t> bytes(options.samples * cuts);
  const auto make = [&] {
    CascadeMemory mine = make_cascade_memory(stages);
    warm_up(stages, mine, model.preprocess.input);
    return [&, memory = std::move(mine), wire = make_wire(stages, data, options)](
               std::size_t first, View input) mutable {
      const auto count = static_cast<std::size_t>(input.batch);
      const std::span<Decision> decisions(&run.decisions[first], count);
      const SteadyClock::time_point begin = SteadyClock::now();
      if (!wire) run_cascade(stages, input, memory, decisions);
      for (std::size_t i = 0; wire && i < count; ++i) {
        decisions[i] = run_over_wire(stages, input.slice(static_cast<int>(i), 1), first + i, memory,
                                     *wire, std::span(bytes).subspan((first + i) * cuts, cuts));
      }
      const double latency_us = 1e6 * seconds_since(begin);
      std::fill_n(&run.latencies_us[first], count, latency_us);
    };
  };
  const SteadyClock::time_point begin = SteadyClock::now();
  {
    Progress progress("cascade", options.samples);
    BatchFeeder(model, data, options, progress).run(make);
  }
  const double seconds = seconds_since(begin);
  check_same(data, run, stages, answers);

  run.crossings.resize(cuts);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] > 0) run.crossings[i % cuts].add(bytes[i]);
  }
  const auto samples = static_cast<double>(options.samples);
  // Each picture's latency is that of its batch, so the time spent is the sum over batches.
  double compute_us = 0.0;
  for (std::size_t i = 0; i < options.samples; i += static_cast<std::size_t>(options.batch)) {
    compute_us += run.latencies_us[i];
  }
  run.compute_rate = samples * options.threads / (compute_us / 1e6);
  run.overall_rate = samples / seconds;
  run.mean_compute_us = compute_us / samples;
  return run;
}

Score score(std::span<const Stage> stages, const Dataset& data, const ExitAnswers& answers,
            std::size_t samples) {
  Score score;
  score.exits.resize(stages.size());
  std::vector<std::size_t> right_all(stages.size()), right_taken(stages.size());
  for (std::size_t i = 0; i < samples; ++i) {
    const int label = data.label(i);
    for (std::size_t exit = 0; exit < stages.size(); ++exit) {
      right_all[exit] += answers.of(i)[exit].label == label ? 1 : 0;
    }
    const Decision& taken = answers.taken(stages, i);
    const auto exit = static_cast<std::size_t>(taken.exit);
    ++score.exits[exit].taken;
    right_taken[exit] += taken.label == label ? 1 : 0;
  }
  const auto ratio = [](std::size_t part, std::size_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);  // NaN for 0 / 0
  };
  double macs = 0.0;
  for (std::size_t exit = 0; exit < stages.size(); ++exit) {
    ExitScore& here = score.exits[exit];
    macs += static_cast<double>(stages[exit].macs());
    here.macs = macs;
    here.accuracy_all = ratio(right_all[exit], samples);
    here.share = ratio(here.taken, samples);
    here.accuracy_taken = ratio(right_taken[exit], here.taken);
    score.accuracy += ratio(right_taken[exit], samples);
    score.mean_macs += here.share * macs;
  }
  return score;
}

}  // namespace offramp::cli
