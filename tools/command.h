// The subcommands of `offramp`, one file each (cmd_*.cpp).
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

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
  /// Returns the exit code; throws Error and BrokenPipe.
  virtual int run() = 0;

 protected:
  CLI::App* app() const { return app_; }

 private:
  CLI::App* app_;
};

std::unique_ptr<Command> make_classify(CLI::App& root);
std::unique_ptr<Command> make_eval(CLI::App& root);
std::unique_ptr<Command> make_inspect(CLI::App& root);
std::unique_ptr<Command> make_profile(CLI::App& root);
std::unique_ptr<Command> make_node(CLI::App& root);
std::unique_ptr<Command> make_run(CLI::App& root);
std::unique_ptr<Command> make_demo(CLI::App& root);
std::unique_ptr<Command> make_load(CLI::App& root);
std::unique_ptr<Command> make_keygen(CLI::App& root);

}  // namespace offramp::cli
