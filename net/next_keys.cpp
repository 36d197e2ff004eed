#include "net/next_keys.h"

#include <sys/stat.h>

#include <utility>

#include "net/key_lines.h"

namespace offramp {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 20;

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
  for (KeyLines lines(text, where); lines.next();) {
    const PublicKey key = lines.key();
    const std::string_view address = lines.word();
    if (!lines.rest().empty()) lines.refuse("KEY or KEY HOST:PORT", "more words");
    if (!address.empty() && !is_address(address))
      lines.refuse("HOST:PORT after the key", "another word");  // which may be a secret
    const bool is_new = address.empty() ? !std::exchange(keys.all_, key)
                                        : keys.by_address_.emplace(address, key).second;
    if (!is_new)
      lines.refuse("one key for each endpoint", address.empty()
                                                    ? "a second one for all"
                                                    : "a second one for " + std::string(address));
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
