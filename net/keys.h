// The keys of CURVE, and the files they live in. net/WIRE.md, "Security", is the specification.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>

#include "engine/error.h"

namespace offramp {

/// Files of keys that are not as they should be end with EX_CONFIG, like all configuration.
inline constexpr ErrorKind kBadKeys = ErrorKind::kBadModel;

inline constexpr std::size_t kKeyBytes = 32;
inline constexpr std::size_t kKeyCharacters = 40;  ///< of a key in Z85

/// A key that all may know.
class PublicKey {
 public:
  explicit PublicKey(const std::array<std::uint8_t, kKeyBytes>& bytes);

  const std::array<std::uint8_t, kKeyBytes>& bytes() const { return bytes_; }
  const std::string& text() const { return text_; }  ///< in Z85
  auto operator<=>(const PublicKey&) const = default;

 private:
  std::array<std::uint8_t, kKeyBytes> bytes_;
  std::string text_;
};

/// How logs name a key: the first 10 characters of its text, so that its line in a list is found.
std::string fingerprint(std::string_view key_text);

/// A key that nobody else may know; wiped from memory with the object.
class SecretKey {
 public:
  explicit SecretKey(const std::array<std::uint8_t, kKeyBytes>& bytes) : bytes_(bytes) {}
  SecretKey(const SecretKey&) = default;
  SecretKey& operator=(const SecretKey&) = default;
  ~SecretKey();

  const std::array<std::uint8_t, kKeyBytes>& bytes() const { return bytes_; }

 private:
  std::array<std::uint8_t, kKeyBytes> bytes_;
};

struct KeyPair {
  PublicKey own;
  SecretKey secret;
};

/// Throws Error{kSystem} unless this machine's libzmq was built with CURVE.
void require_curve();

/// A new pair from the system's random source. Throws as require_curve() does.
KeyPair make_key_pair();

/// `text` as a public key, or what was found instead: "39 characters". Never repeats `text`, which
/// may be a secret in the wrong place.
std::variant<PublicKey, std::string> parse_public_key(std::string_view text);

/// Reads the secret key of `path` and works out the public one. Throws Error{kMissingInput},
/// Error{kBadKeys} for another content, when anybody but the owner may read or write the file, or
/// when its owner is neither root nor this user.
KeyPair read_key_pair(const std::filesystem::path& path);

/// Writes the secret key to `path` (mode 0600) and the public one to `path`.pub. With `replace`,
/// both files are replaced, each at once and only when both could be written; otherwise neither may
/// exist. Throws Error{kCannotWrite}.
void write_key_pair(const std::filesystem::path& path, const KeyPair& pair, bool replace);

/// The contents of a file of keys, at most `limit` bytes. `what` it should be is for the message.
/// Throws Error{kMissingInput}; Error{kBadKeys} when it is longer, is no regular file, belongs to
/// neither root nor this user, or when its mode has one of the bits `forbidden`.
std::string read_guarded_file(const std::filesystem::path& path, const std::string& what,
                              std::size_t limit, unsigned forbidden);

}  // namespace offramp
