// A configuration file with any content is read, or refused with an Error that names file and line.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/error.h"
#include "tools/config_file.h"

using namespace offramp;
using cli::ConfigFile;
using cli::ConfigValue;

namespace {

void require(bool good) {
  if (!good) std::abort();
}

// What the options are given of it.
void check(const ConfigValue& value) {
  require(value.where.starts_with("a.toml:"));
  const bool single =
      value.type == ConfigValue::Type::kText || value.type == ConfigValue::Type::kWhole ||
      value.type == ConfigValue::Type::kFraction || value.type == ConfigValue::Type::kBoolean;
  if (single) require(value.texts.size() == 1);
  if (value.type == ConfigValue::Type::kBoolean)
    require(value.texts[0] == "true" || value.texts[0] == "false");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& [name, section] : ConfigFile::parse(text, "a.toml").sections) {
      require(section.where.starts_with("a.toml:"));
      for (const auto& [key, value] : section.values) check(value);
    }
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kUsage);
    require(std::string_view(error.what()).starts_with("a.toml:"));
  }
  return 0;
}
