#include "tools/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <system_error>

#include "engine/error.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

namespace fs = std::filesystem;

// How far above the program the source tree may begin: build/<preset>/offramp.
constexpr int kLevelsUp = 4;

const std::string kScheme = "tcp://";
// An absolute path: ipc://@name has no file, and so no permissions.
const std::string kPathScheme = "ipc:///";

template <typename Number>
std::optional<Number> parse_as(const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || rest != end || text.empty()) return std::nullopt;
  return value;
}

struct Address {
  std::string host;  ///< with its colon
  int port = 0;
};

Address parse_address(const std::string& option, const std::string& text, int least_port) {
  const std::string address = text.starts_with(kScheme) ? text.substr(kScheme.size()) : text;
  const std::size_t colon = address.rfind(':');
  const bool has_host = colon != std::string::npos && colon > 0;
  const std::optional<int> port =
      has_host ? parse_as<int>(address.substr(colon + 1)) : std::nullopt;
  if (!port || *port < least_port || *port > 65535 || address.find('/') != std::string::npos) {
    throw Error(ErrorKind::kUsage,
                option + ": wanted HOST:PORT or tcp://HOST:PORT with a port from " +
                    std::to_string(least_port) + " to 65535, or ipc:///PATH, found '" + text + "'");
  }
  return {address.substr(0, colon + 1), *port};
}

}  // namespace

std::optional<double> parse_number(const std::string& text) { return parse_as<double>(text); }

std::string join(const std::vector<std::string>& texts, const std::string& separator) {
  std::string all;
  for (const std::string& text : texts) {
    if (!all.empty()) all += separator;
    all += text;
  }
  return all;
}

CLI::Validator one_of(std::vector<std::string> names) {
  return {[names = std::move(names)](std::string& text) {
            if (std::ranges::find(names, text) != names.end()) return std::string();
            std::string wanted = join({names.begin(), names.end() - 1}, ", ");
            wanted += " or " + names.back();
            return "wanted " + wanted + ", found '" + text + "'";
          },
          ""};
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

EntropyUnit::EntropyUnit(bool in_nats, std::size_t classes)
    : nats(in_nats), ln_classes(classes > 1 ? std::log(static_cast<double>(classes)) : 1.0) {}

float EntropyUnit::normalised(double shown) const {
  return std::clamp(static_cast<float>(nats ? shown / ln_classes : shown), 0.0f, 1.0f);
}

void ModelOption::add_to(CLI::App& app) {
  app.add_option("-m,--model", text,
                 "model file [OFFRAMP_MODEL, else weights/resnet20b.safetensors]")
      ->type_name("FILE");
}

fs::path ModelOption::path() const {
  if (!text.empty()) return text;
  if (const char* named = std::getenv("OFFRAMP_MODEL"); named != nullptr && *named != '\0') {
    return named;
  }
  const char* const file = "resnet20b.safetensors";
  if (auto found = find_shipped(file, fs::path("weights") / file)) return *found;
  throw Error(ErrorKind::kMissingInput,
              "model: wanted --model FILE, OFFRAMP_MODEL or weights/resnet20b.safetensors near "
              "the program or in the current folder, found none of them");
}

CLI::Option* add_count(CLI::App& app, const std::string& name, int& value, int least, int most,
                       const std::string& description) {
  const auto check = [least, most](std::string& text) -> std::string {
    const std::optional<int> number = parse_as<int>(text);
    if (number && *number >= least && *number <= most) {
      text = std::to_string(*number);  // CLI11 would take 010 for 8
      return {};
    }
    return "wanted a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
           ", found '" + text + "'";
  };
  return app.add_option(name, value, description)
      ->transform(CLI::Validator(check, ""))
      ->type_name("N");
}

CLI::Option* add_share(CLI::App& app, const std::string& name, double& value,
                       const std::string& description) {
  const auto check = [](std::string& text) -> std::string {
    const std::optional<double> number = parse_as<double>(text);
    if (number && *number >= 0.0 && *number <= 1.0) return {};
    return "wanted a number from 0 to 1, found '" + text + "'";
  };
  return app.add_option(name, value, description)
      ->check(CLI::Validator(check, ""))
      ->type_name("SHARE");
}

std::vector<double> parse_numbers(const std::string& option, const std::string& text, double least,
                                  double most) {
  std::vector<double> numbers;
  for (const std::string& part : split(text, ',')) {
    const std::optional<double> number = parse_as<double>(part);
    // Written so that NaN fails it.
    if (!number || !(*number >= least && *number <= most)) {
      std::string message = option + ": wanted numbers from " + format_short(least);
      message += " to " + format_short(most);
      message += ", found '" + part;
      throw Error(ErrorKind::kUsage, message + "'");
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::chrono::microseconds parse_duration(const std::string& option, const std::string& text) {
  struct Suffix {
    const char* letters;
    double microseconds;
  };
  const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::optional<double> number = parse_as<double>(text.substr(0, digits));
  constexpr double kLongest = 3600e6;
  for (const Suffix& unit : {Suffix{"us", 1.0}, Suffix{"ms", 1e3}, Suffix{"s", 1e6}}) {
    if (!number || text.substr(digits) != unit.letters) continue;
    const double microseconds = *number * unit.microseconds;
    if (!(microseconds >= 1.0 && microseconds <= kLongest)) break;
    return std::chrono::microseconds(std::llround(microseconds));
  }
  throw Error(ErrorKind::kUsage, option + ": wanted a duration from 1us to 3600s such as 250us, " +
                                     "50ms or 1s, found '" + text + "'");
}

std::string parse_listen_endpoint(const std::string& option, const std::string& text) {
  if (text.starts_with(kPathScheme)) return text;
  const Address address = parse_address(option, text, 0);
  return kScheme + address.host + (address.port == 0 ? "*" : std::to_string(address.port));
}

std::string parse_peer_endpoint(const std::string& option, const std::string& text) {
  if (text.starts_with(kPathScheme)) return text;
  const Address address = parse_address(option, text, 1);
  return kScheme + address.host + std::to_string(address.port);
}

fs::path executable_path() {
  std::error_code error;
  fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) {
    throw Error(ErrorKind::kSystem,
                "/proc/self/exe: wanted the program's own path, found: " + error.message());
  }
  return path;
}

std::optional<fs::path> find_shipped(const fs::path& installed, const fs::path& in_source) {
  std::vector<fs::path> candidates;
  fs::path folder = executable_path().parent_path();
  candidates.push_back(folder / ".." / "share" / "offramp" / installed);
  for (int level = 0; level <= kLevelsUp && folder.has_relative_path(); ++level) {
    candidates.push_back(folder / in_source);
    folder = folder.parent_path();
  }
  candidates.push_back(in_source);
  for (const fs::path& candidate : candidates) {
    std::error_code error;
    if (fs::exists(candidate, error)) return candidate.lexically_normal();
  }
  return std::nullopt;
}

}  // namespace offramp::cli
