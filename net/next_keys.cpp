#include "net/next_keys.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>
#include <variant>

namespace offramp {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 20;
constexpr std::string_view kBlanks = " \t\r";

// The next word of `line`, which loses it.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(kBlanks));
  line.remove_prefix(word.size());
  return word;
}

bool is_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  return colon != std::string_view::npos && colon > 0 && colon + 1 < text.size() &&
         text.find_first_not_of("0123456789", colon + 1) == std::string_view::npos &&
         text.find('/') == std::string_view::npos;
}

}  // namespace

NextKeys NextKeys::parse(std::string_view text, const std::string& where) {
  NextKeys keys;
  keys.where_ = where;
  int number = 0;
  while (!text.empty()) {
    ++number;
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const auto refuse = [&](const std::string& wanted, const std::string& found) {
      std::string message = where + ": line " + std::to_string(number);
      message += ": wanted " + wanted;
      message += ", found " + found;
      throw Error(kBadKeys, message);
    };
    const std::string_view key_word = take_word(line);
    if (key_word.empty() || key_word.starts_with('#')) continue;  // no key in Z85 begins so
    const bool secret = key_word == "secret-key";
    const auto parsed = parse_public_key(key_word);
    if (const auto* found = std::get_if<std::string>(&parsed))
      refuse("a public key (40 characters of Z85)", secret ? "a secret key" : *found);
    const PublicKey& key = std::get<PublicKey>(parsed);
    const std::string_view address = take_word(line);
    if (!take_word(line).empty()) refuse("KEY or KEY HOST:PORT", "more words");
    if (!address.empty() && !is_address(address))
      refuse("HOST:PORT after the key", "another word");  // which may be a secret
    const bool is_new = address.empty() ? !std::exchange(keys.all_, key)
                                        : keys.by_address_.emplace(address, key).second;
    if (!is_new)
      refuse("one key for each endpoint",
             address.empty() ? "a second one for all" : "a second one for " + std::string(address));
  }
  if (!keys.all_ && keys.by_address_.empty())
    throw Error(kBadKeys, where + ": wanted a public key (40 characters of Z85), found nothing");
  return keys;
}

NextKeys NextKeys::read(const std::filesystem::path& path) {
  return parse(read_guarded_file(path, "public keys", kMaxFile, S_IWOTH), path.string());
}

const PublicKey& NextKeys::of(const std::string& endpoint) const {
  const std::string scheme = "tcp://";
  const std::string address =
      endpoint.starts_with(scheme) ? endpoint.substr(scheme.size()) : endpoint;
  if (const auto found = by_address_.find(address); found != by_address_.end())
    return found->second;
  if (!all_)
    throw Error(kBadKeys,
                where_ + ": wanted a key for " + address + " or one for all, found neither");
  return *all_;
}

}  // namespace offramp
