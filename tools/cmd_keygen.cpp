// offramp keygen: a key pair for a tier, or all that a device, an edge and a cloud need.

#include <memory>
#include <string>

#include "engine/error.h"
#include "net/keys.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/tier_keys.h"

namespace offramp::cli {
namespace {

class Keygen : public Command {
 public:
  explicit Keygen(CLI::App& root)
      : Command(
            root.add_subcommand("keygen", "Make the key pair of a device, an edge or a cloud")) {
    CLI::Option* const file =
        app()
            ->add_option("FILE", file_,
                         "secret key, for its owner only; the public one is FILE.pub")
            ->option_text(" ");
    CLI::Option* const force = app()->add_flag("--force", force_, "replace keys that are there");
    app()
        ->add_option("--tiers", tiers_,
                     "instead: folders device, edge and cloud in DIR, ready for --keys;\n"
                     "what is there stays as it is, and must fit")
        ->type_name("DIR")
        ->excludes(file)
        ->excludes(force);
    app()->footer(
        "Prints the public key; with --tiers, nothing. A tier's --keys names a folder:\n"
        "  self.key  its own secret key\n"
        "  next.pub  the public key of the tier after it\n"
        "  allow     on edge and cloud, who may connect: a line with role (device, edge,\n"
        "            cloud, any), public key and name for each\n"
        "kill -HUP NODE reads `allow` again.\n"
        "\n"
        "Examples:\n"
        "  offramp keygen --tiers keys\n"
        "  mkdir -m 700 edge device\n"
        "  offramp keygen edge/self.key\n"
        "  cp edge/self.key.pub device/next.pub\n"
        "  echo \"device $(offramp keygen device/self.key) camera\" >> edge/allow");
  }

  int run() override {
    if (file_.empty() == tiers_.empty()) {
      throw Error(ErrorKind::kUsage,
                  "keygen: wanted FILE or --tiers DIR, found neither; see offramp keygen "
                  "--help");
    }
    if (!tiers_.empty()) {
      make_tier_keys(tiers_);
      return 0;
    }
    const KeyPair pair = make_key_pair();
    write_key_pair(file_, pair, force_);
    print(pair.own.text() + "\n");
    return 0;
  }

 private:
  std::string file_;
  std::string tiers_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_keygen(CLI::App& root) { return std::make_unique<Keygen>(root); }

}  // namespace offramp::cli
