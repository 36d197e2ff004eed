// offramp config check: whether a configuration file would do, without starting anything.

#include <memory>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tools/command.h"
#include "tools/config_file.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

class Config : public Command {
 public:
  Config(CLI::App& root, const Commands& commands)
      : Command(root.add_subcommand("config", "Check a configuration file")), commands_(commands) {
    app()->require_subcommand(1);
    CLI::App* const check =
        app()->add_subcommand("check", "Read it as the commands would, and show what is in force");
    check->add_option("FILE", file_, "the configuration")->required()->option_text(" ");
    check->add_option("-c,--command", command_, "check for this command [all that FILE has]")
        ->type_name("node|run|demo")
        ->check(CLI::Validator(
            [this](std::string& text) {
              return configurable(commands_).contains(text)
                         ? std::string()
                         : "wanted node, run or demo, found '" + text + "'";
            },
            ""));
    const char* const help =
        "A file holds a section for each command that it has values for, and a key for each\n"
        "long option, without its dashes; a list stands for what has commas:\n"
        "  [node]\n"
        "  tier = \"edge\"\n"
        "  listen = \"0.0.0.0:5555\"\n"
        "  next = \"cloud.local:5556\"\n"
        "  keys = \"/etc/offramp/keys/edge\"\n"
        "  thresholds = [0.16, 0.24]\n"
        "  workers = 2\n"
        "  lz4 = true\n"
        "OFFRAMP_NODE_WORKERS=4 in the environment goes before the file, and --workers 8\n"
        "before both. Paths are those of whoever starts the command. Secret keys stand in\n"
        "files of their own and never here.\n"
        "\n"
        "Examples:\n"
        "  offramp config check edge.toml\n"
        "  offramp node --config edge.toml --workers 8";
    app()->footer(help);
    check->footer(help);
  }

  int run() override {
    const std::map<std::string, ConfigurableCommand*> known = configurable(commands_);
    std::vector<std::string> names;
    if (!command_.empty()) names = {command_};
    if (names.empty()) {
      for (const auto& [name, section] : ConfigFile::read(file_).sections) names.push_back(name);
    }
    if (names.empty())
      throw Error(ErrorKind::kUsage, file_ + ": wanted a section such as [node], found none");
    std::map<std::string, Settings*> sections;
    for (const auto& [name, command] : known) sections[name] = &command->settings();
    std::string text;
    for (const std::string& name : names) {
      const auto found = known.find(name);
      // A name that is not known is refused by whichever command reads the file.
      ConfigurableCommand& command = found == known.end() ? *known.begin()->second : *found->second;
      text += check(command, sections);
    }
    print(text + file_ + ": ok\n");
    return 0;
  }

 private:
  /// What is in force for the command, as a table.
  std::string check(ConfigurableCommand& command,
                    const std::map<std::string, Settings*>& sections) const {
    Settings& settings = command.settings();
    try {
      settings.apply(sections, file_);
      command.check();
    } catch (const Error& error) {
      throw Error(error.kind(), settings.explain(error.what()));
    } catch (const CLI::ParseError& error) {
      throw Error(ErrorKind::kUsage, file_ + ": [" + command.name() + "]: " + error.what() +
                                         ": wanted it in the file or in the environment, found "
                                         "it in neither");
    }
    Table table({{"[" + command.name() + "]"}, {"VALUE"}, {"FROM"}});
    for (const Setting& setting : settings.all())
      table.add({setting.key, setting.value, setting.origin},
                setting.origin == "default" ? Style::kDim : Style::kPlain);
    return table.text() + "\n";
  }

  const Commands& commands_;
  std::string file_;
  std::string command_;
};

}  // namespace

std::unique_ptr<Command> make_config(CLI::App& root, const Commands& commands) {
  return std::make_unique<Config>(root, commands);
}

}  // namespace offramp::cli
