// The public keys of the next tier's nodes, by where they listen. net/WIRE.md, "Security", is the
// specification.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "net/keys.h"

namespace offramp {

class NextKeys {
 public:
  /// A line each: `KEY` for all nodes, `KEY HOST:PORT` for those at that endpoint. Throws
  /// Error{kBadKeys} that names `where` and the line.
  static NextKeys parse(std::string_view text, const std::string& where);
  /// Throws Error{kMissingInput}, Error{kBadKeys}; also for a file that everybody may write.
  static NextKeys read(const std::filesystem::path& path);

  /// For "tcp://HOST:PORT": the key of its own line, else the one for all. Throws Error{kBadKeys}
  /// when there is neither.
  const PublicKey& of(const std::string& endpoint) const;

 private:
  std::string where_;
  std::optional<PublicKey> all_;
  std::map<std::string, PublicKey> by_address_;
};

}  // namespace offramp
