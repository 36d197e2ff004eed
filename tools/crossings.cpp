#include "tools/crossings.h"

#include <nlohmann/json.hpp>

#include "tools/output.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string shape_behind(std::span<const Stage> stages, std::size_t cut) {
  return to_string(stages[cut].plan().carry_shape());
}

double mean_bytes(const Crossing& crossing) {
  return static_cast<double>(crossing.bytes) / static_cast<double>(crossing.tensors);
}

}  // namespace

Json crossings_json(std::span<const Stage> stages, std::span<const Crossing> crossings) {
  Json cuts = Json::array();
  for (std::size_t cut = 0; cut < crossings.size(); ++cut) {
    const Crossing& crossing = crossings[cut];
    cuts.push_back({{"cut", cut + 1},
                    {"shape", shape_behind(stages, cut)},
                    {"tensors", crossing.tensors},
                    {"mean_bytes", crossing.tensors > 0 ? Json(mean_bytes(crossing)) : Json()}});
  }
  return cuts;
}

std::string crossings_text(std::span<const Stage> stages, std::span<const Crossing> crossings) {
  std::string text;
  for (std::size_t cut = 0; cut < crossings.size(); ++cut) {
    if (crossings[cut].tensors == 0) continue;
    text += "cut " + std::to_string(cut + 1) + "     " + shape_behind(stages, cut) + ", " +
            format_grouped(crossings[cut].tensors) + " times " +
            format_grouped(static_cast<std::uint64_t>(mean_bytes(crossings[cut]) + 0.5)) +
            " bytes\n";
  }
  return text;
}

}  // namespace offramp::cli
