#include "net/allow_list.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "net/key_lines.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxFile = std::size_t{4} << 20;
constexpr std::size_t kMaxName = 64;

std::optional<Role> role_of(std::string_view word) {
  for (const Role role : {Role::kDevice, Role::kEdge, Role::kCloud, Role::kAny})
    if (word == role_name(role)) return role;
  return {};
}

bool printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

const char* role_name(Role role) {
  switch (role) {
    case Role::kDevice:
      return "device";
    case Role::kEdge:
      return "edge";
    case Role::kCloud:
      return "cloud";
    case Role::kAny:
      return "any";
  }
  return "?";
}

const char* wanted_role(Tier node) { return node == Tier::kCloud ? "edge" : "device"; }

bool may_connect(Role role, Tier node) {
  return role == Role::kAny || role == (node == Tier::kCloud ? Role::kEdge : Role::kDevice);
}

AllowList AllowList::parse(std::string_view text, const std::string& where) {
  AllowList list;
  std::map<std::string, int> seen;  // and where each key stands
  for (KeyLines lines(text, where); lines.next();) {
    const std::string_view role_word = lines.word();
    const std::optional<Role> role = role_of(role_word);
    // The word itself is not repeated: it may be a key.
    if (!role)
      lines.refuse("device, edge, cloud or any",
                   std::to_string(role_word.size()) + " other characters");
    const PublicKey key = lines.key();
    const std::string_view name = lines.rest();
    if (name.size() > kMaxName || !printable(name))
      lines.refuse("a name of at most 64 printable characters", "another one");
    if (const auto [first, is_new] = seen.emplace(key.text(), lines.number()); !is_new)
      lines.refuse("each key once", "the key of line " + std::to_string(first->second) + " again");
    list.add(key, {.role = *role, .name = std::string(name)});
  }
  return list;
}

AllowList AllowList::read(const std::filesystem::path& path) {
  return parse(read_guarded_file(path, "a list of keys", kMaxFile, S_IWOTH), path.string());
}

const AllowList::Entry* AllowList::find(std::string_view key_text) const {
  const auto found = entries_.find(key_text);
  return found == entries_.end() ? nullptr : &found->second;
}

}  // namespace offramp
