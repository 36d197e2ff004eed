// Load on a node: all connections of it, shared among threads.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tools/load_driver.h"

namespace offramp::cli {

class LoadGenerator {
 public:
  /// `samples` and `setup` outlive it.
  LoadGenerator(const LoadSetup& setup, std::span<const LoadSample> samples);

  /// Throws as LoadDriver::connect() does.
  void connect(Clock::duration patience);
  /// Throws as LoadDriver::run() does.
  LoadDriver::Result run(const LoadPhase& phase);

 private:
  /// In threads side by side; the first exception is thrown again once all have ended.
  void for_each(const std::function<void(std::size_t index, LoadDriver&)>& work);

  std::vector<std::unique_ptr<LoadDriver>> drivers_;
};

}  // namespace offramp::cli
