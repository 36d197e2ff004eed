#include "net/allow_list.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace offramp {
namespace {

constexpr std::size_t kMaxFile = std::size_t{4} << 20;
constexpr std::size_t kMaxName = 64;
constexpr std::string_view kBlank = " \t\r";

// Takes the next word off the front of `line`; empty at its end.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(kBlank));
  line.remove_prefix(word.size());
  return word;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = std::min(text.find_first_not_of(kBlank), text.size());
  const std::size_t end = text.find_last_not_of(kBlank);
  return end == std::string_view::npos ? std::string_view{} : text.substr(begin, end - begin + 1);
}

std::optional<Role> role_of(std::string_view word) {
  for (const Role role : {Role::kDevice, Role::kEdge, Role::kCloud, Role::kAny})
    if (word == role_name(role)) return role;
  return {};
}

[[noreturn]] void refuse_line(const std::string& where, int number, const std::string& wanted,
                              const std::string& found) {
  throw Error(kBadKeys, where + ": line " + std::to_string(number) + ": wanted " + wanted +
                            ", found " + found);
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
  std::map<std::string, int> lines;  // and where each key stands
  int number = 0;
  while (!text.empty()) {
    ++number;
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const auto refuse = [&](const std::string& wanted, const std::string& found) {
      refuse_line(where, number, wanted, found);
    };
    if (trimmed(line).empty() || trimmed(line).starts_with('#')) continue;
    const std::string_view role_word = take_word(line);
    const std::optional<Role> role = role_of(role_word);
    // The word itself is not repeated: it may be a key.
    if (!role)
      refuse("device, edge, cloud or any", std::to_string(role_word.size()) + " other characters");
    const std::string_view key_word = take_word(line);
    const auto parsed = parse_public_key(key_word);
    const bool secret = key_word == "secret-key";
    if (const auto* found = std::get_if<std::string>(&parsed))
      refuse("a public key of 40 characters of Z85", secret ? "a secret key" : *found);
    const PublicKey& key = std::get<PublicKey>(parsed);
    const std::string_view name = trimmed(line);
    if (name.size() > kMaxName || !printable(name))
      refuse("a name of at most 64 printable characters", "another one");
    if (const auto [first, is_new] = lines.emplace(key.text(), number); !is_new)
      refuse("each key once", "the key of line " + std::to_string(first->second) + " again");
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
