#include "net/key_lines.h"

#include <algorithm>
#include <utility>
#include <variant>

namespace offramp {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);  // npos + 1: nothing
}

}  // namespace

KeyLines::KeyLines(std::string_view text, std::string where)
    : text_(text), where_(std::move(where)) {}

bool KeyLines::next() {
  while (!text_.empty()) {
    ++number_;
    const std::string_view whole = text_.substr(0, text_.find('\n'));
    text_.remove_prefix(std::min(whole.size() + 1, text_.size()));
    line_ = trimmed(whole);
    if (!line_.empty() && !line_.starts_with('#')) return true;  // no key in Z85 begins so
  }
  return false;
}

std::string_view KeyLines::word() {
  const std::string_view word = line_.substr(0, line_.find_first_of(kBlanks));
  line_ = trimmed(line_.substr(word.size()));
  return word;
}

PublicKey KeyLines::key() {
  const std::string_view text = word();
  const auto parsed = parse_public_key(text);
  if (const auto* found = std::get_if<std::string>(&parsed))
    refuse("a public key (40 characters of Z85)", text == "secret-key" ? "a secret key" : *found);
  return std::get<PublicKey>(parsed);
}

void KeyLines::refuse(const std::string& wanted, const std::string& found) const {
  throw Error(kBadKeys, where_ + ": line " + std::to_string(number_) + ": wanted " + wanted +
                            ", found " + found);
}

}  // namespace offramp
