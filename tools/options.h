// Reading the values of options, and finding what ships with the program.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.h"

namespace offramp::cli {

/// Thresholds and entropies as the user gives and sees them: normalised by ln(classes), or in nats.
struct EntropyUnit {
  bool nats = false;
  double ln_classes = 1.0;

  EntropyUnit(bool in_nats, std::size_t classes);
  const char* name() const { return nats ? "nats" : "normalised"; }
  double largest() const { return nats ? ln_classes : 1.0; }
  double shown(double normalised) const { return nats ? normalised * ln_classes : normalised; }
  float normalised(double shown) const;
};

/// `--model`.
struct ModelOption {
  std::string text;

  void add_to(CLI::App& app);
  /// The option, else OFFRAMP_MODEL, else the model that ships with the program.
  /// Throws Error{kMissingInput}.
  std::filesystem::path path() const;
};

/// The whole of `text` as a number; none when it is not one. Locale-independent, unlike strtod.
std::optional<double> parse_number(const std::string& text);

/// The parts between separators; one, empty, of an empty text.
std::vector<std::string> split(const std::string& text, char separator);
std::string join(const std::vector<std::string>& texts, const std::string& separator);

/// Fails its option unless the value is one of `names`, of which there are two or more.
CLI::Validator one_of(std::vector<std::string> names);

/// Adds an option for a whole number in [least, most] to `app`.
CLI::Option* add_count(CLI::App& app, const std::string& name, int& value, int least, int most,
                       const std::string& description);

/// Adds an option for a number in [0, 1] to `app`.
CLI::Option* add_share(CLI::App& app, const std::string& name, double& value,
                       const std::string& description);

/// "100,200.5", each in [least, most]. Throws Error{kUsage}.
std::vector<double> parse_numbers(const std::string& option, const std::string& text, double least,
                                  double most);

/// "50ms", "1s", "250us". Throws Error{kUsage} outside [1 us, 1 h].
std::chrono::microseconds parse_duration(const std::string& option, const std::string& text);

/// "host:port", "tcp://host:port" or "ipc:///path" as net/ wants them. An address to listen on may
/// have port 0, for any free one. Throws Error{kUsage}.
std::string parse_listen_endpoint(const std::string& option, const std::string& text);
std::string parse_peer_endpoint(const std::string& option, const std::string& text);

/// This program's own file.
std::filesystem::path executable_path();

/// A file or folder that ships with the program: `installed` under ../share/offramp, else
/// `in_source` in a folder above the program or in the current one.
std::optional<std::filesystem::path> find_shipped(const std::filesystem::path& installed,
                                                  const std::filesystem::path& in_source);

}  // namespace offramp::cli
