// What a node or a device says of its work while it does it: to stderr, as text for people or as
// JSON for machines.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "net/log.h"
#include "net/message.h"

namespace spdlog {
class logger;
}

namespace offramp::cli {

/// From any thread. A stderr that cannot be written, because its disk is full or nobody reads it,
/// costs the line and at most a moment; how many were lost is said once it can be written again.
class Logger {
 public:
  enum class Format { kText, kJson };

  /// Says what is at `least` as grave.
  Logger(Tier tier, Format format, LogLevel least);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  void say(LogLevel level, const std::string& message) const;
  /// `fields`, an object, stand beside the message in JSON; the text has them in its words.
  void say(LogLevel level, const std::string& message, const nlohmann::ordered_json& fields) const;

  /// For net/. This outlives it.
  Log callback() const;

 private:
  Format format_;
  std::unique_ptr<spdlog::logger> logger_;
};

/// `--log-format` and `--log-level`.
class LogOptions {
 public:
  /// `flag` stands for another level, and cannot stand beside this one.
  void add_to(CLI::App& app, CLI::Option* flag, const std::string& usual_level);
  Logger make(Tier tier, LogLevel usual) const;

 private:
  std::string format_;
  std::string level_;
};

}  // namespace offramp::cli
