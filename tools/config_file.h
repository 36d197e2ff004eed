// A TOML file with values for options: one section a command, one key an option.
//
//   [node]
//   tier = "edge"
//   listen = "0.0.0.0:5555"
//   workers = 2
//   lz4 = true
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace offramp::cli {

struct ConfigValue {
  enum class Type { kText, kWhole, kFraction, kBoolean, kList, kOther };
  Type type = Type::kOther;
  std::vector<std::string> texts{};  ///< as a command line would have it; of a list, one for each
  std::string where{};               ///< "edge.toml:3"
};
const char* type_name(ConfigValue::Type type);  ///< "text", "a whole number", ...

struct ConfigSection {
  std::string where{};
  std::map<std::string, ConfigValue> values{};  ///< by key
};

struct ConfigFile {
  std::map<std::string, ConfigSection> sections{};  ///< by name

  /// Throws Error{kMissingInput} when it cannot be read, Error{kUsage} when it is not TOML or has
  /// values outside of sections.
  static ConfigFile read(const std::filesystem::path& path);
  /// The same for contents that have been read; `path` is for messages.
  static ConfigFile parse(std::string_view text, const std::filesystem::path& path);
};

}  // namespace offramp::cli
