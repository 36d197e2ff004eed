#include "tools/load_generator.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

namespace offramp::cli {
namespace {

// For all threads to get there before the first request.
constexpr std::chrono::milliseconds kUntilStart{20};

}  // namespace

LoadGenerator::LoadGenerator(const LoadSetup& setup, std::span<const LoadSample> samples) {
  for (int i = 0; i < setup.threads; ++i)
    drivers_.push_back(std::make_unique<LoadDriver>(setup, samples, i));
}

void LoadGenerator::connect(Clock::duration patience) {
  const Clock::time_point until = Clock::now() + patience;
  for_each([until](std::size_t, LoadDriver& driver) { driver.connect(until); });
}

LoadDriver::Result LoadGenerator::run(const LoadPhase& phase) {
  const Clock::time_point start = Clock::now() + kUntilStart;
  std::vector<LoadDriver::Result> parts(drivers_.size());
  for_each([&](std::size_t i, LoadDriver& driver) { parts[i] = driver.run(phase, start); });
  LoadDriver::Result whole;
  for (LoadDriver::Result& part : parts) {
    whole.duplicated += part.duplicated;
    whole.broken += part.broken;
    whole.records.insert(whole.records.end(), part.records.begin(), part.records.end());
  }
  std::ranges::stable_sort(whole.records, {}, &LoadRecord::intended);
  return whole;
}

void LoadGenerator::for_each(const std::function<void(std::size_t, LoadDriver&)>& work) {
  std::vector<std::exception_ptr> failures(drivers_.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < drivers_.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          work(i, *drivers_[i]);
        } catch (...) {
          failures[i] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace offramp::cli
