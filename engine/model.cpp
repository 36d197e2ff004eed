#include "engine/model.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "engine/error.h"
#include "engine/file.h"
#include "engine/json_reader.h"
#include "engine/model_graph.h"
#include "engine/rule_table.h"
#include "engine/safetensors.h"

namespace offramp {
namespace {

using nlohmann::json;

constexpr int kMaxInputSide = 4096;

std::string hexadecimal(std::span<const std::uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

// The texts of __metadata__, by key.
class Metadata {
 public:
  Metadata(const std::map<std::string, std::string>& entries, const std::string& origin)
      : entries_(entries), origin_(origin) {}

  const std::string& text(const char* key) const {
    const auto found = entries_.find(key);
    if (found == entries_.end()) {
      throw bad_model(origin_ + ": metadata", std::string("'") + key + "'", "none");
    }
    return found->second;
  }

  bool has(const char* key) const { return entries_.contains(key); }

  json parsed(const char* key) const { return parse_json(text(key), where(key)); }

  void expect(const char* key, const char* wanted) const {
    if (const std::string& found = text(key); found != wanted) {
      throw bad_model(where(key), wanted, "'" + printable(found) + "'");
    }
  }

  std::string where(const char* key) const { return origin_ + ": " + key; }

 private:
  const std::map<std::string, std::string>& entries_;
  const std::string& origin_;
};

Preprocess read_input(const json& entry, const std::string& where) {
  JsonFields fields(entry, where);
  Preprocess how;
  const json& shape = fields.list("shape");
  if (shape.size() != 3) throw bad_model(where + ": shape", "[3, height, width]", describe(shape));
  how.input = {json_integer(shape[0], 3, 3, where + ": channels"),
               json_integer(shape[1], 1, kMaxInputSide, where + ": height"),
               json_integer(shape[2], 1, kMaxInputSide, where + ": width")};
  const std::string resize = fields.text("resize");
  if (resize == "shorter") {
    how.resize = Preprocess::Resize::kShorter;
    // At least the crop's longer side, so that no picture is too small once resized.
    how.resize_to =
        fields.integer("resize_to", std::max(how.input.height, how.input.width), kMaxInputSide);
  } else if (resize != "stretch") {
    throw bad_model(where + ": resize", "stretch or shorter", "'" + printable(resize) + "'");
  }
  how.mean = fields.triple("mean");
  how.std = fields.triple("std");
  for (const float std : how.std) {
    if (!(std > 0)) throw bad_model(where + ": std", "numbers above 0", std::to_string(std));
  }
  fields.finish();
  return how;
}

std::vector<std::string> read_classes(const json& list, const std::string& where) {
  if (!list.is_array() || list.empty()) throw bad_model(where, "a list of names", describe(list));
  std::vector<std::string> classes;
  std::set<std::string> seen;
  for (const json& entry : list) {
    classes.push_back(json_text(entry, where));
    if (!seen.insert(classes.back()).second) {
      throw bad_model(where, "distinct names", "'" + printable(classes.back()) + "' twice");
    }
  }
  return classes;
}

void check_logits(const Graph& graph, std::size_t classes, const std::string& origin) {
  const Shape wanted{static_cast<int>(classes), 1, 1};
  for (const Exit& exit : graph.exits) {
    const Shape& found = graph.values[static_cast<std::size_t>(exit.logits)];
    if (found != wanted) {
      throw bad_model(origin + ": exit '" + printable(exit.name) + "'",
                      std::to_string(classes) + " logits, one for each class", to_string(found));
    }
  }
}

}  // namespace

std::string full_id(const ModelId& id) { return hexadecimal(id); }

std::string short_id(const ModelId& id) { return hexadecimal(std::span(id).first(8)); }

Model parse_model(std::span<const std::uint8_t> file, const std::string& origin) {
  const Safetensors contents = parse_safetensors(file, origin);
  const Metadata metadata(contents.metadata, origin);
  metadata.expect("format", "offramp");
  metadata.expect("offramp.version", "1");

  Model model;
  model.file_bytes = file.size();
  model.name = json_text(metadata.text("offramp.name"), metadata.where("offramp.name"));
  model.preprocess = read_input(metadata.parsed("offramp.input"), metadata.where("offramp.input"));
  model.classes =
      read_classes(metadata.parsed("offramp.classes"), metadata.where("offramp.classes"));
  model.graph = read_graph(metadata.parsed("offramp.graph"), metadata.parsed("offramp.exits"),
                           model.preprocess.input, contents.tensors, origin);
  check_logits(model.graph, model.classes.size(), origin);
  const std::size_t exits = model.graph.exits.size();
  if (metadata.has("offramp.rules")) {
    const std::vector<ExitRule> rules =
        read_rules(metadata.parsed("offramp.rules"), exits, metadata.where("offramp.rules"));
    for (std::size_t i = 0; i < exits; ++i) model.graph.exits[i].rule = rules[i];
  }
  if (metadata.has("offramp.targets")) {
    model.targets =
        read_targets(metadata.parsed("offramp.targets"), exits, metadata.where("offramp.targets"));
  }

  // Before the weights' values are judged: a damaged file should be called damaged.
  model.id = content_hash(contents);
  const std::string &wanted = metadata.text("offramp.hash"), found = hexadecimal(model.id);
  if (wanted != found) {
    throw bad_model(origin, "content with hash '" + printable(wanted) + "'",
                    found + " (the file is damaged or was edited)");
  }
  try {
    validate(model.graph);
  } catch (const Error& error) {
    throw Error(error.kind(), origin + ": " + error.what());
  }
  return model;
}

Model load_model(const std::filesystem::path& path) {
  std::vector<std::uint8_t> file = read_file(path, kMaxFileBytes, ErrorKind::kBadModel);
  Model model = parse_model(file, path.string());
  model.file = std::move(file);
  return model;
}

}  // namespace offramp
