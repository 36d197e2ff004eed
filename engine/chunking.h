// How many samples of a batch go through which layers together.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace offramp {

/// Floats of all weights together, above which they cannot be expected in a last-level cache: 16
/// MiB.
inline constexpr std::size_t kLastLevelFloats = 4u << 20;

/// What one step moves.
struct StepTraffic {
  std::size_t weight_floats = 0;      ///< read by every visit
  std::size_t activation_floats = 0;  ///< read and written for one sample
  std::size_t scratch_floats = 0;     ///< working memory, whatever the samples
  std::size_t output_floats = 0;      ///< the part of these that the next step reads
  bool alone = false;                 ///< all samples at once, in a chunk of its own
};

/// The steps [first, end), through which `samples` samples go before the next ones begin.
struct Chunk {
  int first = 0, end = 0;
  int samples = 1;
  bool operator==(const Chunk&) const = default;
};

/// Divides the steps so that a batch spends as little as possible on moving floats past a cache of
/// `cache_floats`: few samples at once keep their activations in it, and leave room for weights to
/// stay; many share a visit to weights that do not; and between two chunks the activations of the
/// whole batch have to wait outside. Exact for its prices, by dynamic programming.
std::vector<Chunk> divide(std::span<const StepTraffic> steps, int batch, std::size_t cache_floats);

}  // namespace offramp
