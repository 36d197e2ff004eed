// What crossed between the tiers, cut by cut.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "engine/cascade.h"

namespace offramp::cli {

struct Crossing {
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;  ///< of both frames of all their messages

  void add(std::uint64_t message_bytes) {
    ++tensors;
    bytes += message_bytes;
  }
};

/// `crossings` [cuts]: the first is the one behind the first of `stages`.
nlohmann::ordered_json crossings_json(std::span<const Stage> stages,
                                      std::span<const Crossing> crossings);
/// A line for each cut where something crossed.
std::string crossings_text(std::span<const Stage> stages, std::span<const Crossing> crossings);

}  // namespace offramp::cli
