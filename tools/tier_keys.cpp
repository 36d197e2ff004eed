#include "tools/tier_keys.h"

#include <optional>
#include <string>
#include <system_error>

#include "engine/error.h"
#include "net/message.h"
#include "net/next_keys.h"
#include "tools/key_options.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

namespace fs = std::filesystem;

/// Nobody but the owner has any business in a folder that this makes.
void make_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return;
  if (!fs::create_directories(folder, error)) {
    throw Error(ErrorKind::kCannotWrite,
                folder.string() + ": wanted a folder, found: " + error.message());
  }
  fs::permissions(folder, fs::perms::owner_all, error);
}

/// A file that is there must hold the key already.
void write_unless_there(const fs::path& path, const std::string& role, const PublicKey& key) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    OutputFile file(path);
    file.write(role + key.text() + "\n");
    file.close();
    // Public, whatever the umask: a tier may be another user's, to whom the folder is given.
    fs::permissions(path, fs::perms(0644), error);
    if (error)
      throw Error(ErrorKind::kCannotWrite,
                  path.string() + ": wanted to let everybody read it, found: " + error.message());
    return;
  }
  constexpr std::size_t kMost = std::size_t{1} << 20;
  if (read_guarded_file(path, "keys", kMost, 0).find(key.text()) == std::string::npos) {
    throw Error(kBadKeys, path.string() + ": wanted the key " + fingerprint(key.text()) +
                              "..., found others: add it, or remove the file");
  }
}

}  // namespace

void make_tier_keys(const fs::path& root) {
  std::optional<PublicKey> next;
  for (const Tier tier : {Tier::kCloud, Tier::kEdge, Tier::kDevice}) {
    const fs::path folder = root / tier_name(tier), own = folder / kOwnKeyFile;
    make_folder(folder);
    std::error_code error;
    if (!fs::exists(own, error)) write_key_pair(own, make_key_pair(), false);
    const PublicKey key = read_key_pair(own).own;
    if (next) {
      write_unless_there(folder / kNextKeyFile, "", *next);
      const Tier after = tier == Tier::kEdge ? Tier::kCloud : Tier::kEdge;
      write_unless_there(root / tier_name(after) / kAllowFile, std::string(tier_name(tier)) + " ",
                         key);
    }
    next = key;
  }
}

LinkKeys read_link_keys(const fs::path& folder) {
  return {.own = read_key_pair(folder / kOwnKeyFile),
          .server = NextKeys::read(folder / kNextKeyFile).of({})};
}

}  // namespace offramp::cli
