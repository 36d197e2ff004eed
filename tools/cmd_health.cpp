// offramp health: is a tier fit for work? For health checks of containers, which have no curl.

#include <memory>
#include <string>

#include "engine/error.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/scrape.h"

namespace offramp::cli {
namespace {

class Health : public Command {
 public:
  explicit Health(CLI::App& root)
      : Command(root.add_subcommand("health", "Ask a tier whether it is fit for work")) {
    app()
        ->add_option("ADDRESS", address_, "--metrics of the node; on loopback when only a PORT")
        ->required()
        ->option_text("[HOST:]PORT");
    app()->add_flag("--live", live_, "whether it lives at all, though it may be draining");
    app()->footer(
        "Ends with 0 when it is, with 69 and the reason when it is not.\n"
        "\n"
        "Examples:\n"
        "  offramp health 9100\n"
        "  offramp health --live edge.local:9100");
  }

  int run() override {
    const HttpAddress address = parse_http_address("health", address_, 1);
    const std::string path = live_ ? "/health/live" : "/health/ready";
    const std::string problem = fetch_health(address, path);
    if (!problem.empty()) {
      throw Error(ErrorKind::kUnavailable, to_string(address) + ": wanted a tier that is " +
                                               (live_ ? "alive" : "ready") + ", found: " + problem);
    }
    print(live_ ? "live\n" : "ready\n");
    return 0;
  }

 private:
  std::string address_;
  bool live_ = false;
};

}  // namespace

std::unique_ptr<Command> make_health(CLI::App& root) { return std::make_unique<Health>(root); }

}  // namespace offramp::cli
