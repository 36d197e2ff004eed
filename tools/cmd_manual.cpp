// offramp manual: the help as a page for man or a script for bash. For those who make packages; the
// help does not show it.

#include <memory>
#include <string>

#include "tools/command.h"
#include "tools/manual.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

class Manual : public Command {
 public:
  explicit Manual(CLI::App& root)
      : Command(root.add_subcommand("manual", "The help as a page for man")), root_(root) {
    app()->group("");
    app()->add_option("--date", date_, "of the page")->type_name("DATE");
    app()->add_flag("--bash-completion", completion_, "a script for bash instead");
  }

  int run() override {
    print(completion_ ? bash_completion(root_) : manual_page(root_, kVersion, date_));
    return 0;
  }

 private:
  const CLI::App& root_;
  std::string date_ = "1970-01-01";
  bool completion_ = false;
};

}  // namespace

std::unique_ptr<Command> make_manual(CLI::App& root) { return std::make_unique<Manual>(root); }

}  // namespace offramp::cli
