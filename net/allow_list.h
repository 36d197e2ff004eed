// Who may connect to a node: public keys and their roles, read from a file that people keep.
//
//   # role   public key                               name, for the log
//   device   Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID  camera at the gate
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "net/keys.h"
#include "net/message.h"

namespace offramp {

/// What the owner of a key is.
enum class Role { kDevice, kEdge, kCloud, kAny };
const char* role_name(Role role);  ///< "device", "edge", "cloud", "any"

/// Each tier takes work from the one before it only: the edge from devices, the cloud from edges.
bool may_connect(Role role, Tier node);
const char* wanted_role(Tier node);  ///< "device"

/// Empty: nobody may.
class AllowList {
 public:
  struct Entry {
    Role role = Role::kDevice;
    std::string name{};
    bool operator==(const Entry&) const = default;
  };

  /// Throws Error{kBadKeys} that names `where` and the line.
  static AllowList parse(std::string_view text, const std::string& where);
  /// Throws Error{kMissingInput}, Error{kBadKeys}; also for a file that everybody may write.
  static AllowList read(const std::filesystem::path& path);

  void add(const PublicKey& key, Entry entry) { entries_[key.text()] = std::move(entry); }
  /// Null for a key that is not on the list. `key_text` is Z85.
  const Entry* find(std::string_view key_text) const;
  std::size_t size() const { return entries_.size(); }

 private:
  std::map<std::string, Entry, std::less<>> entries_;  ///< by the key's text
};

}  // namespace offramp
