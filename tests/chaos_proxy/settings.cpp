#include "tests/chaos_proxy/settings.h"

#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

namespace offramp::chaos {
namespace {

using Words = std::vector<std::string>;
using Change = std::function<void(Settings&)>;

constexpr double kLongestDelayMs = 60'000.0;
constexpr double kLargestRate = 1e12;

const std::map<std::string, Action> kActions = {
    {"heal", Action::kHeal},       {"close", Action::kClose}, {"reset", Action::kReset},
    {"abandon", Action::kAbandon}, {"quit", Action::kQuit},   {"statistics", Action::kStatistics},
};

Words words_of(const std::string& line) {
  std::istringstream stream(line);
  Words words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::optional<double> number(const std::string& text, double largest) {
  double value = 0.0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || rest != end || !(value >= 0.0 && value <= largest)) return {};
  return value;
}

std::chrono::microseconds milliseconds(double value) {
  return std::chrono::microseconds(static_cast<std::int64_t>(value * 1000.0));
}

Change delay(const Words& values) {
  const auto first = number(values[0], kLongestDelayMs);
  const auto second = values.size() < 2 ? 0.0 : number(values[1], kLongestDelayMs);
  if (!first || !second) return {};
  return [first, second](Settings& settings) {
    settings.delay = milliseconds(*first);
    settings.jitter = milliseconds(*second);
  };
}

Change scalar(const Words& values, double Settings::*field, double largest) {
  const auto value = number(values[0], largest);
  if (!value) return {};
  return [value, field](Settings& settings) { settings.*field = *value; };
}

Change toggle(const Words& values, bool Settings::*field) {
  if (values[0] != "on" && values[0] != "off") return {};
  return [on = values[0] == "on", field](Settings& settings) { settings.*field = on; };
}

/// None when the words, which are two or more, make no sense.
Change change_of(const std::string& name, const Words& values) {
  if (values.empty() || values.size() > (name == "delay" ? 2u : 1u)) return {};
  if (name == "delay") return delay(values);
  if (name == "rate") return scalar(values, &Settings::rate, kLargestRate);
  if (name == "corrupt") return scalar(values, &Settings::corrupt, 1.0);
  if (name == "hold") return toggle(values, &Settings::hold);
  if (name == "blackhole") return toggle(values, &Settings::blackhole);
  return {};
}

}  // namespace

Command apply(const std::string& line, std::array<Settings, kDirections>& settings) {
  Words words = words_of(line);
  if (words.size() == 1) {
    if (const auto found = kActions.find(words[0]); found != kActions.end()) {
      if (found->second == Action::kHeal) settings = {};
      return {found->second, ""};
    }
  }
  bool up = true, down = true;
  if (words.size() > 2 && (words.back() == "up" || words.back() == "down")) {
    up = words.back() == "up";
    down = !up;
  }
  if (words.size() > 2 && (!up || !down || words.back() == "both")) words.pop_back();
  const Change change =
      words.empty() ? Change() : change_of(words[0], Words(words.begin() + 1, words.end()));
  if (!change) {
    return {Action::kNone,
            "wanted delay MS [JITTER_MS], rate BYTES_PER_SECOND, corrupt PROBABILITY, hold on|off "
            "or blackhole on|off, each with up, down or both, or one of heal, close, reset, "
            "abandon, statistics, quit; found '" +
                line + "'"};
  }
  if (up) change(settings[0]);
  if (down) change(settings[1]);
  return {};
}

}  // namespace offramp::chaos
