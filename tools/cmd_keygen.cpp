// offramp keygen: a key pair for a tier.

#include <memory>
#include <string>

#include "net/keys.h"
#include "tools/command.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

class Keygen : public Command {
 public:
  explicit Keygen(CLI::App& root)
      : Command(
            root.add_subcommand("keygen", "Make the key pair of a device, an edge or a cloud")) {
    app()
        ->add_option("FILE", file_, "secret key, for its owner only; the public one is FILE.pub")
        ->required()
        ->option_text(" ");
    app()->add_flag("--force", force_, "replace keys that are there");
    app()->footer(
        "Prints the public key. A tier's --keys names a folder:\n"
        "  self.key  its own secret key\n"
        "  next.pub  the public key of the tier after it\n"
        "  allow     on edge and cloud, who may connect: a line with role (device, edge,\n"
        "            cloud, any), public key and name for each\n"
        "kill -HUP NODE reads `allow` again.\n"
        "\n"
        "Examples:\n"
        "  mkdir -m 700 edge device\n"
        "  offramp keygen edge/self.key\n"
        "  cp edge/self.key.pub device/next.pub\n"
        "  echo \"device $(offramp keygen device/self.key) camera\" >> edge/allow");
  }

  int run() override {
    const KeyPair pair = make_key_pair();
    write_key_pair(file_, pair, force_);
    print(pair.own.text() + "\n");
    return 0;
  }

 private:
  std::string file_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_keygen(CLI::App& root) { return std::make_unique<Keygen>(root); }

}  // namespace offramp::cli
