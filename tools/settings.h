// Where a command's options get their values: from its flags, else from the environment, else from
// a file, else from the command itself.
//
//   flag          --port-file edge.addr
//   environment   OFFRAMP_NODE_PORT_FILE=edge.addr     OFFRAMP_COMMAND_OPTION, for every long
//   option file          port-file = "edge.addr" under [node]; named by --config or OFFRAMP_CONFIG
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tools/config_file.h"

namespace offramp::cli {

/// What every command that takes settings says at the end of its help.
extern const char* const kSettingsHelp;

/// An option as it stands.
struct Setting {
  std::string key;
  std::string value;
  std::string origin;  ///< "flag", "OFFRAMP_NODE_LISTEN", "edge.toml:3" or "default"
};

class Settings {
 public:
  /// Adds --config to `app`.
  explicit Settings(CLI::App& app);

  /// What may be said elsewhere is not asked for while the command line is read: between these two.
  void postpone_required();
  void restore_required();

  /// Gives options without a flag what the environment and the file say: `file`, else what --config
  /// or OFFRAMP_CONFIG name. `sections` are the names of all that may be in it. Throws
  /// Error{kUsage} for unknown keys and bad values, CLI::ParseError where a required option has
  /// none, and what reading the file throws.
  void apply(const std::map<std::string, Settings*>& sections,
             const std::optional<std::string>& file = {});

  /// `message`, that names an option or begins with its value, as one that names where the value
  /// came from.
  std::string explain(const std::string& message) const;

  /// All options, in the order of the help. Those without a value and a default are left out.
  std::vector<Setting> all() const;

 private:
  std::string variable(const std::string& key) const;
  std::optional<std::pair<std::string, std::string>> from_environment(
      const CLI::Option& option) const;
  void warn_of_unknown_variables() const;
  void take_environment();
  void take_file(const ConfigFile& file);
  void take(CLI::Option& option, std::vector<std::string> texts, const std::string& origin);
  bool overruled(const CLI::Option& option, int rank) const;
  void require_known_keys(const ConfigSection& section) const;
  void check_together() const;
  CLI::Option* find(const std::string& key) const;

  CLI::App& app_;
  std::string file_;
  std::vector<CLI::Option*> required_;
  std::map<const CLI::Option*, std::string> origins_;  ///< of values that no flag gave
  std::map<const CLI::Option*, int> ranks_;            ///< 0 flag, 1 environment, 2 file
};

}  // namespace offramp::cli
