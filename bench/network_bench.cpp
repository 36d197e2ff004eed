// A whole network, timed on the command of another process: bench/peers.py runs this beside other
// engines and lets them take turns.
//
//   network_bench MODEL [--batch N] [--threads N] [--exit K]      obeys lines on standard input
//   network_bench MODEL ... --rounds R                            median and minimum of R runs
//
// All exits up to K (1 is the earliest; by default all) compute their logits, and nobody leaves
// early. The line protocol, one answer to each line, which bench/peers_workers.py speaks as well:
//
//   (at the start)   ready offramp VERSION
//   input FILE       ok                  float32 [batch, channels, height, width]
//   run N            ns T1 T2 ... TN     nanoseconds of N runs, one after the other
//   logits FILE      ok                  writes float32 [exit, batch, class] of one run
//   memory           kib N               peak of the resident memory (VmHWM)
//
// Anything that fails is answered by "error WHY" and ends the program with exit code 1.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cascade.h"
#include "engine/model.h"
#include "engine/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/layout.h"

namespace offramp {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  int batch = 1;
  int threads = 1;
  int exit = 0;    ///< 0: all of them
  int rounds = 0;  ///< 0: obey lines
};

int parse_count(std::string_view what, std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1) {
    throw std::runtime_error(std::string(what) + ": wanted a number from 1, found '" +
                             std::string(text) + "'");
  }
  return value;
}

Options parse_options(std::span<char*> arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view name = arguments[i];
    int* number = name == "--batch"     ? &options.batch
                  : name == "--threads" ? &options.threads
                  : name == "--exit"    ? &options.exit
                  : name == "--rounds"  ? &options.rounds
                                        : nullptr;
    if (number != nullptr && i + 1 < arguments.size()) {
      *number = parse_count(name, arguments[++i]);
    } else if (number == nullptr && !name.starts_with("-") && options.model.empty()) {
      options.model = name;
    } else {
      throw std::runtime_error(
          "wanted MODEL [--batch N] [--threads N] [--exit K] [--rounds R], found " +
          std::string(name));
    }
  }
  if (options.model.empty()) throw std::runtime_error("wanted a model file, found none");
  return options;
}

PlanOptions plan_options(const Options& options) {
  PlanOptions plan = plan_options_from_environment();
  plan.max_batch = options.batch;
  plan.threads = options.threads;
  return plan;
}

/// The stages up to an exit, and the input that they are run on.
class Network {
 public:
  explicit Network(const Options& options)
      : batch_(options.batch),
        model_(load_model(options.model)),
        input_(model_.preprocess.input.elements() * static_cast<std::size_t>(batch_)) {
    stages_ = make_stages(model_, {}, plan_options(options));
    const int exits = static_cast<int>(stages_.size());
    if (options.exit > exits) {
      throw std::runtime_error("--exit: the model has " + std::to_string(exits));
    }
    if (options.exit > 0) {
      stages_.erase(stages_.begin() + options.exit, stages_.end());
    }
    for (const Stage& stage : stages_) workspaces_.push_back(stage.plan().make_workspace());
    if (options.threads > 1) pool_ = std::make_unique<ThreadPool>(options.threads);
    logits_.resize(stages_.size());
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < input_.size(); ++i) input_.data()[i] = normal(random);
  }

  std::string kernels() const { return stages_[0].plan().kernels().name; }

  void run() noexcept {
    View value{input_.data(), batch_, model_.preprocess.input};
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const Plan::Outputs outputs = stages_[i].plan().run(value, workspaces_[i], pool_.get());
      logits_[i] = outputs.logits;
      value = outputs.carry;
    }
  }

  std::vector<long long> time(int runs) {
    std::vector<long long> times;
    times.reserve(static_cast<std::size_t>(runs));
    for (int i = 0; i < runs; ++i) {
      const auto start = Clock::now();
      run();
      times.push_back(
          std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    }
    return times;
  }

  /// Channels first, as all the other engines read them.
  void read_input(const std::string& path) {
    const Shape shape = model_.preprocess.input;
    std::vector<float> values(input_.size());
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
    if (!file || file.peek() != std::ifstream::traits_type::eof()) {
      throw std::runtime_error(path + ": wanted " + std::to_string(values.size()) + " floats");
    }
    for (std::size_t n = 0; n < static_cast<std::size_t>(batch_); ++n) {
      to_channels_last(shape.channels, shape.height, shape.width,
                       values.data() + n * shape.elements(), input_.data() + n * shape.elements());
    }
  }

  void write_logits(const std::string& path) {
    run();
    std::ofstream file(path, std::ios::binary);
    for (const View& view : logits_) {
      file.write(reinterpret_cast<const char*>(view.data),
                 static_cast<std::streamsize>(view.elements() * sizeof(float)));
    }
    if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
  }

 private:
  int batch_;
  Model model_;
  Buffer input_;
  std::vector<Stage> stages_;
  std::vector<Workspace> workspaces_;
  std::vector<View> logits_;
  std::unique_ptr<ThreadPool> pool_;  ///< null for one thread
};

long peak_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6));
  }
  throw std::runtime_error("/proc/self/status: wanted VmHWM, found none");
}

std::string answer(Network& network, const std::string& line) {
  const std::size_t space = line.find(' ');
  const std::string verb = line.substr(0, space);
  const std::string argument = space == std::string::npos ? "" : line.substr(space + 1);
  if (verb == "run") {
    std::string text = "ns";
    for (long long t : network.time(parse_count(verb, argument))) text += " " + std::to_string(t);
    return text;
  }
  if (verb == "input") {
    network.read_input(argument);
    return "ok";
  }
  if (verb == "logits") {
    network.write_logits(argument);
    return "ok";
  }
  if (verb == "memory") return "kib " + std::to_string(peak_kib());
  throw std::runtime_error("wanted input, run, logits or memory, found '" + line + "'");
}

void obey(Network& network) {
  std::cout << "ready offramp " << network.kernels() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(network, line) << std::endl;
  }
}

void report(Network& network, int rounds) {
  network.run();  // touches every page first
  std::vector<long long> times = network.time(rounds);
  std::sort(times.begin(), times.end());
  std::printf("median %.4f ms, minimum %.4f ms, %d runs, %s\n",
              static_cast<double>(times[times.size() / 2]) * 1e-6,
              static_cast<double>(times[0]) * 1e-6, rounds, network.kernels().c_str());
}

int main_or_throw(std::span<char*> arguments) {
  const Options options = parse_options(arguments);
  Network network(options);
  if (options.rounds > 0) {
    report(network, options.rounds);
  } else {
    obey(network);
  }
  return 0;
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  try {
    return offramp::main_or_throw({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cout << "error " << error.what() << std::endl;
    return 1;
  }
}
