#include "tools/tuning_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <variant>

#include "kernels/kernels.h"
#include "tools/command.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
// For what is read: an ordered object looks at all its keys for each new one, and a damaged file
// may have as many as it likes.
using FoundJson = nlohmann::json;

// Raised when the kernels change so much that old measurements mislead.
constexpr int kFormat = 2;
constexpr std::uintmax_t kLargestFile = 4u << 20;

/// "AMD EPYC 25/1/1": from the first processor that the system lists.
std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string name = "unknown", numbers;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_first_of("\t:"));
    const std::string value = line.substr(colon + 2);
    if (key == "model name") name = value;
    if (key == "cpu family" || key == "model" || key == "stepping" || key == "CPU part") {
      numbers += (numbers.empty() ? " " : "/") + value;
    }
  }
  return name + numbers;
}

std::string file_safe(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    safe += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  }
  return safe;
}

Json to_json(const TuningKey& key) {
  return {{"format", kFormat},  {"version", kVersion}, {"cpu", key.cpu},        {"isa", key.isa},
          {"model", key.model}, {"batch", key.batch},  {"threads", key.threads}};
}

void warn(const fs::path& file, const std::string& what) {
  log("offramp: warning: " + file.string() + ": " + what);
}

bool is_convolution(const Model& model, const std::string& name) {
  return std::any_of(model.graph.layers.begin(), model.graph.layers.end(), [&](const Layer& layer) {
    return layer.name == name && std::holds_alternative<Conv2d>(layer.op);
  });
}

/// Convolutions of the model, and nothing else, with algorithms that there are.
std::optional<ConvPaths> read_layers(const FoundJson& layers, const Model& model) {
  if (!layers.is_object()) return std::nullopt;
  ConvPaths paths;
  for (auto it = layers.begin(); it != layers.end(); ++it) {
    if (!it->is_string() || !is_convolution(model, it.key())) return std::nullopt;
    const std::optional<ConvPath> path = parse_conv_path(it->get<std::string>());
    if (!path) return std::nullopt;
    paths.emplace(it.key(), *path);
  }
  return paths;
}

}  // namespace

TuningKey tuning_key(const Model& model, const PlanOptions& options) {
  const KernelTable& kernels = options.kernels != nullptr ? *options.kernels : best_kernels();
  return {cpu_name(), kernels.name, full_id(model.id), options.max_batch, options.threads};
}

std::optional<fs::path> tuning_file(const TuningKey& key) {
  fs::path folder;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    folder = cache;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    folder = fs::path(home) / ".cache";
  } else {
    return std::nullopt;
  }
  return folder / "offramp" /
         ("tuning-" + key.model.substr(0, 16) + "-" + file_safe(key.cpu) + "-" + key.isa + "-b" +
          std::to_string(key.batch) + "-t" + std::to_string(key.threads) + ".json");
}

std::optional<ConvPaths> load_tuning(const fs::path& file, const TuningKey& key,
                                     const Model& model) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  if (error) return std::nullopt;
  if (size > kLargestFile) {
    warn(file, "wanted a tuning, found " + std::to_string(size) + " bytes; measuring anew");
    return std::nullopt;
  }
  std::ifstream stream(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const FoundJson value = FoundJson::parse(text, nullptr, false);
  if (!value.is_object() || !value.contains("layers")) {
    warn(file, "damaged, wanted JSON with layers; measuring anew");
    return std::nullopt;
  }
  const FoundJson wanted = to_json(key);
  for (auto it = wanted.begin(); it != wanted.end(); ++it) {
    if (!value.contains(it.key()) || value[it.key()] != it.value()) {
      warn(file,
           "made for another " + it.key() + ", wanted " + it.value().dump() + "; measuring anew");
      return std::nullopt;
    }
  }
  std::optional<ConvPaths> paths = read_layers(value["layers"], model);
  if (!paths) warn(file, "damaged, wanted an algorithm for each convolution; measuring anew");
  return paths;
}

void save_tuning(const fs::path& file, const TuningKey& key, const ConvPaths& paths) {
  Json value = to_json(key);
  value["layers"] = Json::object();
  for (const auto& [layer, path] : paths) value["layers"][layer] = to_string(path);
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  // Processes of several containers may share the folder and their number.
  const fs::path unfinished =
      file.string() + "." + std::to_string(getpid()) + "-" + std::to_string(std::random_device()());
  std::ofstream stream(unfinished, std::ios::binary | std::ios::trunc);
  stream << value.dump(1) << '\n';
  stream.close();
  if (stream) fs::rename(unfinished, file, error);
  if (!stream || error) {
    warn(file, "cannot be written; the next --tune measures again");
    fs::remove(unfinished, error);
  }
}

}  // namespace offramp::cli
