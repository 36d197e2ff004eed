#include "tools/settings.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "tools/options.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

enum Rank { kFlag, kEnvironment, kFile };

/// "--port-file" without its dashes; empty for what only the command line may say.
std::string key_of(const CLI::Option& option) {
  if (option.get_lnames().empty()) return {};
  const std::string& name = option.get_lnames().front();
  return name == "help" || name == "config" ? std::string() : name;
}

bool is_flag(const CLI::Option& option) { return option.get_expected_max() == 0; }
bool is_count(const CLI::Option& option) { return option.get_type_name() == "N"; }

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    if (c == '-') return '_';
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return text;
}

std::optional<std::string> variable_value(const std::string& name) {
  const char* const value = std::getenv(name.c_str());
  if (value == nullptr || *value == '\0') return {};
  return value;
}

/// The texts of a value that fits the option; throws where another type was wanted.
std::vector<std::string> fitting(const CLI::Option& option, const ConfigValue& value,
                                 const std::string& key) {
  using enum ConfigValue::Type;
  const auto refuse = [&](const std::string& wanted) {
    throw Error(ErrorKind::kUsage,
                value.where + ": " + key + ": wanted " + wanted + ", found " +
                    type_name(value.type) +
                    (value.texts.size() == 1 ? " '" + value.texts[0] + "'" : ""));
  };
  if (is_flag(option)) {
    if (value.type != kBoolean) refuse("true or false");
  } else if (is_count(option)) {
    if (value.type != kWhole) refuse("a whole number");
  } else if (value.type == kBoolean || value.type == kOther) {
    refuse("text or a number, or a list of those");
  }
  if (value.type == kList && option.get_expected_max() == 1) return {join(value.texts, ",")};
  return value.texts;
}

/// The "[10s]" at the end of an option's description.
std::string documented_default(const CLI::Option& option) {
  const std::string& text = option.get_description();
  const std::size_t open = text.rfind('[');
  if (open == std::string::npos || !text.ends_with(']')) return {};
  return text.substr(open + 1, text.size() - open - 2);
}

}  // namespace

const char* const kSettingsHelp =
    "\n\nEvery long option may also stand in a TOML file, port-file = \"edge.addr\" under\n"
    "[COMMAND], that --config or OFFRAMP_CONFIG names, or in the environment, as\n"
    "OFFRAMP_COMMAND_PORT_FILE. A flag goes before the environment, and that before the\n"
    "file; see offramp config --help.";

Settings::Settings(CLI::App& app) : app_(app) {
  app.add_option("--config", file_, "values of options as TOML [OFFRAMP_CONFIG]")
      ->type_name("FILE");
}

void Settings::postpone_required() {
  for (CLI::Option* const option : app_.get_options({})) {
    if (!option->get_required() || key_of(*option).empty()) continue;
    required_.push_back(option);
    option->required(false);
  }
}

void Settings::restore_required() {
  for (CLI::Option* const option : required_) option->required();
}

std::string Settings::variable(const std::string& key) const {
  return "OFFRAMP_" + upper(app_.get_name()) + "_" + upper(key);
}

CLI::Option* Settings::find(const std::string& key) const {
  for (CLI::Option* const option : app_.get_options({}))
    if (key_of(*option) == key) return option;
  return nullptr;
}

void Settings::apply(const std::map<std::string, Settings*>& sections,
                     const std::optional<std::string>& file) {
  for (const CLI::Option* const option : app_.get_options({}))
    if (option->count() > 0) ranks_[option] = kFlag;
  take_environment();
  std::optional<std::string> named = file;
  if (!named && !file_.empty()) named = file_;
  if (!named) named = variable_value("OFFRAMP_CONFIG");
  if (named) {
    const ConfigFile config = ConfigFile::read(*named);
    for (const auto& [name, section] : config.sections) {
      const auto known = sections.find(name);
      if (known == sections.end()) {
        std::string names;
        for (const auto& each : sections) {
          names += names.empty() ? "[" : ", [";
          names += each.first + "]";
        }
        names += ", found [" + name;
        throw Error(ErrorKind::kUsage, section.where + ": wanted a section of " + names + "]");
      }
      known->second->require_known_keys(section);
    }
    take_file(config);
  }
  check_together();
}

void Settings::require_known_keys(const ConfigSection& section) const {
  for (const auto& [key, value] : section.values) {
    if (find(key) != nullptr) continue;
    throw Error(ErrorKind::kUsage, value.where + ": wanted an option of offramp " +
                                       app_.get_name() + " without its dashes, found '" + key +
                                       "'");
  }
}

std::optional<std::pair<std::string, std::string>> Settings::from_environment(
    const CLI::Option& option) const {
  const std::string key = key_of(option);
  std::vector<std::string> names = {variable(key)};
  if (key == "model") names.emplace_back("OFFRAMP_MODEL");
  for (const std::string& name : names)
    if (std::optional<std::string> value = variable_value(name)) return {{name, *value}};
  return {};
}

/// What begins like a variable of this command and is none is a slip; but services of an
/// orchestrator may bear such names, too, so that it is told and not refused.
void Settings::warn_of_unknown_variables() const {
  const std::string prefix = variable("");
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry, name = text.substr(0, text.find('='));
    if (!name.starts_with(prefix)) continue;
    const bool known = std::ranges::any_of(app_.get_options({}), [&](const CLI::Option* option) {
      return !key_of(*option).empty() && variable(key_of(*option)) == name;
    });
    if (known) continue;
    std::string message = "WARNING: " + name + ": wanted an option of offramp ";
    message += app_.get_name() + " after " + prefix + ", found none; it has no effect";
    complain(message);
  }
}

void Settings::take_environment() {
  warn_of_unknown_variables();
  for (CLI::Option* const option : app_.get_options({})) {
    if (key_of(*option).empty() || option->count() > 0 || overruled(*option, kEnvironment))
      continue;
    const auto found = from_environment(*option);
    if (!found) continue;
    const auto& [name, value] = *found;
    if (is_flag(*option) && value != "true" && value != "false") {
      std::string message = name + ": wanted true or false, found '";
      message += value + "'";
      throw Error(ErrorKind::kUsage, message);
    }
    ranks_[option] = kEnvironment;
    take(*option, {value}, name);
  }
}

void Settings::take_file(const ConfigFile& file) {
  const auto section = file.sections.find(app_.get_name());
  if (section == file.sections.end()) return;
  for (const auto& [key, value] : section->second.values) {
    CLI::Option& option = *find(key);
    const std::vector<std::string> texts = fitting(option, value, key);
    if (option.count() > 0 || overruled(option, kFile)) continue;
    ranks_[&option] = kFile;
    take(option, texts, value.where);
  }
}

/// A value from further away yields to one that it excludes: --insecure to the keys of a file.
bool Settings::overruled(const CLI::Option& option, int rank) const {
  return std::ranges::any_of(option.get_excludes(), [&](const CLI::Option* other) {
    const auto others = ranks_.find(other);
    return other->count() > 0 && others != ranks_.end() && others->second < rank;
  });
}

void Settings::take(CLI::Option& option, std::vector<std::string> texts,
                    const std::string& origin) {
  origins_[&option] = origin;
  // Flags are off unless they are on; saying so excludes nothing.
  if (is_flag(option) && texts == std::vector<std::string>{"false"}) return;
  option.add_result(std::move(texts));
  try {
    option.run_callback();
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorKind::kUsage, explain(error.what()));
  }
}

void Settings::check_together() const {
  for (const CLI::Option* const option : app_.get_options({})) {
    if (option->count() == 0) continue;
    for (const CLI::Option* const other : option->get_excludes()) {
      if (other->count() == 0) continue;
      throw Error(ErrorKind::kUsage, explain("--" + key_of(*option) + ": wanted it without --" +
                                             key_of(*other) + ", found both"));
    }
  }
  for (const CLI::Option* const option : required_)
    if (option->count() == 0) throw CLI::RequiredError(option->get_name());
}

std::string Settings::explain(const std::string& message) const {
  const auto begins = [](const std::string& text, const std::string& start) {
    return text.starts_with(start) && text.size() > start.size() &&
           std::string(":, /").find(text[start.size()]) != std::string::npos;
  };
  const std::string scheme = "tcp://";
  const std::string found = message.starts_with(scheme) ? message.substr(scheme.size()) : message;
  std::string origin;
  std::size_t longest = 0;
  for (const auto& [option, where] : origins_) {
    const std::string key = key_of(*option);
    // A variable's name says which option it is.
    std::string source = where;
    if (!where.starts_with("OFFRAMP_")) source += ": " + key;
    if (begins(message, "--" + key)) return source + message.substr(2 + key.size());
    const std::string value = join(option->results(), ",");
    if (value.size() > longest && begins(found, value)) {
      longest = value.size();
      origin = source;
    }
  }
  return origin.empty() ? message : origin + ": " + message;
}

std::vector<Setting> Settings::all() const {
  std::vector<Setting> settings;
  for (const CLI::Option* const option : app_.get_options({})) {
    const std::string key = key_of(*option);
    if (key.empty()) continue;
    const auto origin = origins_.find(option);
    const bool given = option->count() > 0;
    Setting setting{.key = key, .value = join(option->results(), ","), .origin = "default"};
    if (is_flag(*option)) setting.value = given ? "true" : "false";
    if (!given && !is_flag(*option)) setting.value = documented_default(*option);
    if (origin != origins_.end())
      setting.origin = origin->second;
    else if (given)
      setting.origin = "flag";
    if (!setting.value.empty()) settings.push_back(std::move(setting));
  }
  return settings;
}

}  // namespace offramp::cli
