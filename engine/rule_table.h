// Rules in a model file: metadata `offramp.rules` and `offramp.targets` (weights/FORMAT.md).
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/exits.h"

namespace offramp {

/// Rules chosen to cost at most so much accuracy, and what they did on pictures held out from
/// training (tools/calibrate.py).
struct Target {
  std::string name;             ///< "0.3"
  std::vector<ExitRule> rules;  ///< one for each exit
  float points = 0.0f;          ///< of accuracy below the last exit, at most
  float confidence = 0.0f;      ///< that this holds for pictures like those held out
  struct HeldOut {
    int pictures = 0;
    float loss = 0.0f;          ///< points below the last exit; negative: above it
    std::vector<float> shares;  ///< of the pictures, answered by each exit
    float cost = 1.0f;          ///< a mean, of what the whole network costs
  } held_out;
};

/// The one of that name. Throws Error{kUsage}, which begins with `where` and names those that
/// `model` has.
const Target& find_target(const std::vector<Target>& targets, const std::string& name,
                          const std::string& model, const std::string& where);

/// One rule for each of `exits`. Throws Error{kBadModel}, as read_targets().
std::vector<ExitRule> read_rules(const nlohmann::json& list, std::size_t exits,
                                 const std::string& where);
std::vector<Target> read_targets(const nlohmann::json& list, std::size_t exits,
                                 const std::string& where);

}  // namespace offramp
