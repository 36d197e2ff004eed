#include "tools/config_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include "engine/error.h"

namespace offramp::cli {
namespace {

constexpr std::size_t kLargestBytes = std::size_t{1} << 20;

std::string contents(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& found) {
    throw Error(ErrorKind::kMissingInput,
                path.string() + ": wanted a configuration file, found: " + found);
  };
  std::error_code absent;
  if (std::filesystem::is_directory(path, absent)) fail("a folder");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(std::generic_category().message(errno));
  std::string text(kLargestBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) fail(std::generic_category().message(errno));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kLargestBytes)
    throw Error(ErrorKind::kUsage,
                path.string() +
                    ": wanted a configuration file of at most 1 MiB, found a larger "
                    "one");
  return text;
}

template <class Source>
std::string place(const std::filesystem::path& path, const Source& source) {
  return path.string() + ":" + std::to_string(source.begin.line);
}

std::string number_text(const toml::node& node) {
  if (const auto whole = node.value_exact<std::int64_t>()) return std::to_string(*whole);
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text.precision(17);
  text << *node.value_exact<double>();
  return text.str();
}

ConfigValue::Type type_of(const toml::node& node) {
  using enum ConfigValue::Type;
  switch (node.type()) {
    case toml::node_type::string:
      return kText;
    case toml::node_type::integer:
      return kWhole;
    case toml::node_type::floating_point:
      return kFraction;
    case toml::node_type::boolean:
      return kBoolean;
    case toml::node_type::array:
      return kList;
    default:
      return kOther;
  }
}

/// Texts and numbers as a command line has them.
bool append_text(const toml::node& node, std::vector<std::string>& texts) {
  if (const auto text = node.value_exact<std::string>())
    texts.push_back(*text);
  else if (node.is_number())
    texts.push_back(number_text(node));
  else
    return false;
  return true;
}

ConfigValue value_of(const toml::node& node, const std::string& where) {
  ConfigValue value{.type = type_of(node), .where = where};
  if (const auto flag = node.value_exact<bool>()) {
    value.texts.emplace_back(*flag ? "true" : "false");
  } else if (const toml::array* const list = node.as_array()) {
    const bool plain = std::ranges::all_of(
        *list, [&](const toml::node& each) { return append_text(each, value.texts); });
    if (!plain) value.type = ConfigValue::Type::kOther;
  } else {
    append_text(node, value.texts);
  }
  return value;
}

}  // namespace

const char* type_name(ConfigValue::Type type) {
  switch (type) {
    case ConfigValue::Type::kText:
      return "text";
    case ConfigValue::Type::kWhole:
      return "a whole number";
    case ConfigValue::Type::kFraction:
      return "a number";
    case ConfigValue::Type::kBoolean:
      return "true or false";
    case ConfigValue::Type::kList:
      return "a list";
    case ConfigValue::Type::kOther:
      break;
  }
  return "something else";
}

ConfigFile ConfigFile::read(const std::filesystem::path& path) {
  return parse(contents(path), path);
}

ConfigFile ConfigFile::parse(std::string_view text, const std::filesystem::path& path) {
  ConfigFile file;
  try {
    const toml::table root = toml::parse(text, path.string());
    for (const auto& [name, node] : root) {
      ConfigSection section{.where = place(path, node.source())};
      const toml::table* const table = node.as_table();
      if (table == nullptr)
        throw Error(ErrorKind::kUsage, section.where +
                                           ": wanted a section such as [node] before any key, "
                                           "found '" +
                                           std::string(name.str()) + "'");
      for (const auto& [key, value] : *table) {
        section.values.emplace(std::string(key.str()), value_of(value, place(path, key.source())));
      }
      file.sections.emplace(std::string(name.str()), std::move(section));
    }
  } catch (const toml::parse_error& error) {
    throw Error(ErrorKind::kUsage, place(path, error.source()) +
                                       ": wanted TOML, found: " + std::string(error.description()));
  }
  return file;
}

}  // namespace offramp::cli
