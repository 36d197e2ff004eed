// The subcommands of `offramp`, one file each (cmd_*.cpp).
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tools/settings.h"

namespace offramp::cli {

inline constexpr char kVersion[] = OFFRAMP_VERSION;

/// Exit codes beside those of ErrorKind.
inline constexpr int kExitInternal = 70;     ///< a bug of ours
inline constexpr int kExitSignal = 128;      ///< plus the signal's number, as a shell reports it
inline constexpr int kExitBrokenPipe = 141;  ///< the reader of our output went away

/// A subcommand: its constructor registers options, which point into the object.
class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  bool chosen() const { return app_->parsed(); }
  const std::string& name() const { return app_->get_name(); }
  /// Returns the exit code; throws Error and BrokenPipe.
  virtual int run() = 0;

 protected:
  CLI::App* app() const { return app_; }

 private:
  CLI::App* app_;
};

/// A command whose options may stand in a file and in the environment too.
class ConfigurableCommand : public Command {
 public:
  explicit ConfigurableCommand(CLI::App* app) : Command(app), settings_(*app) {}

  Settings& settings() { return settings_; }
  /// Reads all values as run() does, and starts nothing. Throws what run() does for wrong ones.
  virtual void check() = 0;

 private:
  Settings settings_;
};

using Commands = std::vector<std::unique_ptr<Command>>;
/// Those of them that are configurable, by name.
std::map<std::string, ConfigurableCommand*> configurable(const Commands& commands);

std::unique_ptr<Command> make_classify(CLI::App& root);
std::unique_ptr<Command> make_eval(CLI::App& root);
std::unique_ptr<Command> make_inspect(CLI::App& root);
std::unique_ptr<Command> make_profile(CLI::App& root);
std::unique_ptr<Command> make_node(CLI::App& root);
std::unique_ptr<Command> make_run(CLI::App& root);
std::unique_ptr<Command> make_demo(CLI::App& root);
std::unique_ptr<Command> make_load(CLI::App& root);
std::unique_ptr<Command> make_keygen(CLI::App& root);
std::unique_ptr<Command> make_health(CLI::App& root);
std::unique_ptr<Command> make_top(CLI::App& root);
std::unique_ptr<Command> make_manual(CLI::App& root);
/// `commands` outlives it, and holds all by the time that it runs.
std::unique_ptr<Command> make_config(CLI::App& root, const Commands& commands);

}  // namespace offramp::cli
