// A model file: graph, weights, how to prepare a picture, class names. Format: weights/FORMAT.md.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/graph.h"
#include "engine/rule_table.h"

namespace offramp {

/// How a picture becomes the network's input, exactly as in training:
/// resize -> crop the centre -> scale to 0..1 -> (x - mean) / std per channel.
struct Preprocess {
  enum class Resize {
    kStretch,  ///< to the input size, whatever the aspect ratio
    kShorter,  ///< shorter side to `resize_to` pixels, then the centre is cropped
  };
  Shape input;  ///< channels (3), height, width
  Resize resize = Resize::kStretch;
  int resize_to = 0;  ///< pixels, for kShorter
  std::array<float, 3> mean{}, std{1, 1, 1};
};

/// BLAKE2b-256 over metadata and tensors (weights/FORMAT.md). Equal ids mean equal answers.
using ModelId = std::array<std::uint8_t, 32>;

/// The first 8 bytes in hexadecimal, for people.
std::string short_id(const ModelId& id);
/// All of it.
std::string full_id(const ModelId& id);

struct Model {
  std::string name;
  Graph graph;  ///< its weights point into `file`
  Preprocess preprocess;
  std::vector<std::string> classes;
  std::vector<Target> targets;  ///< other rules than those of the graph's exits, by name
  ModelId id{};
  std::uint64_t file_bytes = 0;
  std::vector<std::uint8_t> file;

  Model() = default;
  Model(Model&&) = default;
  Model& operator=(Model&&) = default;
};

/// Checks a model that lies in memory, aligned for floats; the result borrows its weights from
/// there. `origin` names it in errors. Throws Error{kBadModel}.
Model parse_model(std::span<const std::uint8_t> file, const std::string& origin);

/// Reads and checks a model file. Throws Error{kMissingInput} or Error{kBadModel}.
Model load_model(const std::filesystem::path& path);

}  // namespace offramp
