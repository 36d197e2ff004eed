#include "tools/key_options.h"

#include <algorithm>
#include <system_error>

#include "engine/error.h"
#include "net/next_keys.h"
#include "net/socket.h"

namespace offramp::cli {

namespace fs = std::filesystem;

void KeyOptions::add_to(CLI::App& app, bool listens) {
  CLI::Option* const keys =
      app.add_option("-k,--keys", keys_,
                     listens
                         ? "folder with self.key (offramp keygen), allow (who may connect)\n"
                           "and next.pub (keys of --next); or self.key itself"
                         : "folder with self.key (offramp keygen) and next.pub (keys of --next);\n"
                           "or self.key itself")
          ->option_text("DIR|FILE")
          // Once: were the folder gone at a later reading, the files beside it would be taken.
          ->each([this](const std::string& path) {
            std::error_code absent;
            own_key_ = path;
            names_folder_ = fs::is_directory(own_key_, absent);
            if (names_folder_) own_key_ /= kOwnKeyFile;
          });
  app.add_flag("--insecure", insecure_,
               listens ? "no keys: plaintext for everybody on this machine"
                       : "no keys: plaintext that anybody on the way may read and change")
      ->excludes(keys)
      ->option_text(" ");
}

fs::path KeyOptions::file(const char* name) const { return own_key_.parent_path() / name; }

bool KeyOptions::wanted_for(const std::string& option, const std::string& endpoint) const {
  if (is_ipc(endpoint) || insecure_) return false;
  if (keys_.empty())
    throw Error(ErrorKind::kUsage, option + " " + endpoint +
                                       ": wanted --keys DIR (see offramp keygen --help) or "
                                       "--insecure, found neither");
  return true;
}

std::vector<ZmqEndpoint> KeyOptions::links(const std::vector<std::string>& endpoints) const {
  std::vector<ZmqEndpoint> links;
  std::optional<KeyPair> own;
  std::optional<NextKeys> next;
  for (const std::string& endpoint : endpoints) {
    ZmqEndpoint& link = links.emplace_back(ZmqEndpoint{.endpoint = endpoint});
    if (!wanted_for("--next", endpoint)) continue;
    if (!own) own = read_key_pair(own_key_);
    if (!next) next = NextKeys::read(file(kNextKeyFile));
    link.keys = LinkKeys{.own = *own, .server = next->of(endpoint)};
  }
  return links;
}

std::vector<LinkKeys> KeyOptions::links(const std::string& next) const {
  if (!wanted_for("--next", next)) return {};
  std::vector<fs::path> files;
  if (names_folder_) {
    std::error_code error;
    for (fs::directory_iterator at(own_key_.parent_path(), error), end; !error && at != end;
         at.increment(error))
      if (at->path().extension() == ".key") files.push_back(at->path());
    if (error)
      throw Error(ErrorKind::kMissingInput,
                  keys_ + ": wanted a folder of keys, found: " + error.message());
  } else {
    files.push_back(own_key_);
  }
  if (files.empty())
    throw Error(ErrorKind::kMissingInput, keys_ + ": wanted *.key (offramp keygen), found none");
  std::ranges::sort(files);
  const PublicKey server = NextKeys::read(file(kNextKeyFile)).of(next);
  std::vector<LinkKeys> all;
  for (const fs::path& path : files)
    all.push_back(LinkKeys{.own = read_key_pair(path), .server = server});
  return all;
}

std::optional<NodeKeys> KeyOptions::node(const std::string& listen) const {
  if (insecure_ && !is_local(listen))
    throw Error(ErrorKind::kUsage, "--listen " + listen +
                                       ": wanted --keys DIR, or 127.0.0.1 or [::1] with "
                                       "--insecure, found an address that others can reach");
  if (!wanted_for("--listen", listen)) return std::nullopt;
  return NodeKeys{.own = read_key_pair(own_key_), .allowed = allow_list()};
}

AllowList KeyOptions::allow_list() const { return AllowList::read(file(kAllowFile)); }

std::string KeyOptions::warning() const {
  if (!insecure_) return {};
  return "WARNING: --insecure: no encryption and no keys; whoever reaches a link can read and "
         "change what goes over it";
}

}  // namespace offramp::cli
