// The `offramp` command: options, exit codes, and nothing else.

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "engine/error.h"
#include "kernels/kernels.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/signals.h"

namespace offramp::cli {
namespace {

// "offramp 0.1.0, instruction sets of this machine: scalar sse2 avx2"
std::string version_line() {
  std::string line = std::string("offramp ") + kVersion + ", instruction sets of this machine:";
  for (const KernelTable* table : available_kernels()) line += std::string(" ") + table->name;
  return line;
}

const char* const kFooter = R"(Examples:
  offramp demo
  offramp classify cat.png ship.jpg
  offramp eval --data cifar-10-batches-bin --sweep
  offramp keygen --tiers keys
  offramp node --tier edge --listen 0.0.0.0:5555 --next cloud.local:5556 --keys keys/edge
  offramp run --next edge.local:5555 --keys keys/device cat.png
  offramp top 127.0.0.1:9101 127.0.0.1:9102

Environment:
  OFFRAMP_CONFIG  file with values of options for node, run and demo, when --config is
                  not given; see offramp config --help
  OFFRAMP_MODEL   model file, when --model is not given
  OFFRAMP_ISA     instruction set: scalar, sse2, avx2, avx512, neon [default: the best
                  of this CPU]
  OFFRAMP_CONV    convolution: auto, direct, winograd2, winograd4, winograd6, im2col
                  [default: auto, the one expected to be fastest for each layer]
  NO_COLOR        no colours, even on a terminal

Files:
  /etc/offramp/NAME.toml  options of the service offramp-node@NAME, of Debian's package
  /etc/offramp/keys       its keys, a folder for each --keys
  ~/.cache/offramp        what --tune has measured

Exit codes:
    0  success
   64  wrong usage: an option, a threshold, an endpoint, a line of a configuration file
   65  bad data: a file is not the picture or data set it should be
   66  a file or folder is missing or may not be read: keys, allow-list and
       configuration included
   69  unavailable: an address is in use; or pictures were answered, but some
       only by the best tier that could be reached, or not at all with --policy
       strict; or a node was stopped and some requests were not answered in time;
       or `load` lost requests, `health` found a tier not ready, `top --once` none
   70  a bug in offramp
   71  the operating system refused: memory, threads, sockets
   73  an output file cannot be written, or a key is there already
   78  the model file is damaged, or two tiers have different models; or a key or the
       allow-list is damaged, or others may read a secret key; or `load` got
       answers that are not the cascade's
  130  interrupted by Ctrl-C (143: by SIGTERM)
  141  the reader of the output went away
With several pictures, the good ones are answered and the first bad one gives the code.)";

const char* const kDescription =
    "Early-exit image classification across device, edge and cloud: a tier answers\n"
    "when its exit is sure enough, otherwise it hands on to the next one.";

/// The subcommand that was named, for the hint; "" when none was.
std::string named_subcommand(const CLI::App& root) {
  const std::vector<CLI::App*> named = root.get_subcommands();
  return named.empty() ? "" : " " + named.front()->get_name();
}

/// CLI11 complains of a missing option before it does of an unknown one, which is the likelier
/// slip.
std::string explain(const CLI::App& root, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = root.remaining(true);
  if (unknown.empty()) {
    std::string what = error.what();
    if (const auto at = what.find(" excludes "); at != std::string::npos)
      return what.substr(0, at) + ": wanted without " + what.substr(at + 10) + ", found both";
    if (what == "A subcommand is required") return "wanted a command, found none";
    if (const auto at = what.rfind(" is required"); at != std::string::npos)
      return "wanted " + what.substr(0, at) + ", found none";
    return what;
  }
  return "wanted a known option or argument, found '" + unknown.front() + "'";
}

int usage_error(const CLI::App& root, const CLI::ParseError& error) {
  complain(explain(root, error) + "; see offramp" + named_subcommand(root) + " --help");
  return static_cast<int>(ErrorKind::kUsage);
}

std::map<std::string, Settings*> settings_of(const Commands& commands) {
  std::map<std::string, Settings*> all;
  for (const auto& [name, command] : configurable(commands)) all[name] = &command->settings();
  return all;
}

/// Reads the command line. What it may leave to files and the environment is asked for later.
void parse(CLI::App& root, const Commands& commands, int argc, char** argv) {
  struct Postponed {
    std::map<std::string, Settings*> all;
    explicit Postponed(const Commands& of) : all(settings_of(of)) {
      for (const auto& [name, settings] : all) settings->postpone_required();
    }
    ~Postponed() {
      for (const auto& [name, settings] : all) settings->restore_required();
    }
  };
  const Postponed postponed(commands);
  root.parse(argc, argv);
}

/// An error of a command in words that say where its values came from.
std::string explained(Command& command, const Error& error) {
  auto* const configured = dynamic_cast<ConfigurableCommand*>(&command);
  return configured == nullptr ? error.what() : configured->settings().explain(error.what());
}

int guarded(const CLI::App& root, const Commands& commands, Command& command) {
  try {
    if (auto* const configured = dynamic_cast<ConfigurableCommand*>(&command))
      configured->settings().apply(settings_of(commands));
    return command.run();
  } catch (const CLI::ParseError& error) {
    return usage_error(root, error);
  } catch (const BrokenPipe&) {
    return kExitBrokenPipe;
  } catch (const Interrupted& interrupted) {
    return kExitSignal + interrupted.signal;
  } catch (const Error& error) {
    complain(explained(command, error));
    return static_cast<int>(error.kind());
  } catch (const std::bad_alloc&) {
    complain("memory: wanted more than the system gives");
    return static_cast<int>(ErrorKind::kSystem);
  } catch (const std::system_error& error) {
    complain(std::string("system: ") + error.what());
    return static_cast<int>(ErrorKind::kSystem);
  } catch (const std::exception& error) {
    complain(std::string("internal error, a bug in offramp: ") + error.what());
    return kExitInternal;
  }
}

int run(int argc, char** argv) {
  CLI::App root(kDescription, "offramp");
  root.footer(kFooter);
  root.get_formatter()->column_width(32);
  root.set_version_flag("--version", version_line());
  root.require_subcommand(1);
  Commands commands;
  for (auto make : {make_classify, make_eval, make_inspect, make_profile, make_node, make_run,
                    make_demo, make_load, make_keygen, make_top, make_health, make_manual}) {
    commands.push_back(make(root));
  }
  commands.push_back(make_config(root, commands));
  try {
    parse(root, commands, argc, argv);
  } catch (const CLI::Success& wanted) {
    root.exit(wanted);
    return 0;
  } catch (const CLI::ParseError& error) {
    return usage_error(root, error);
  }
  for (const std::unique_ptr<Command>& command : commands) {
    if (command->chosen()) return guarded(root, commands, *command);
  }
  return kExitInternal;
}

}  // namespace

std::map<std::string, ConfigurableCommand*> configurable(const Commands& commands) {
  std::map<std::string, ConfigurableCommand*> found;
  for (const std::unique_ptr<Command>& command : commands) {
    if (auto* const each = dynamic_cast<ConfigurableCommand*>(command.get()))
      found[each->name()] = each;
  }
  return found;
}

}  // namespace offramp::cli

int main(int argc, char** argv) {
  offramp::cli::install_signal_handlers();
  return offramp::cli::run(argc, argv);
}
