#include "net/keys.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

namespace offramp {
namespace {

namespace fs = std::filesystem;

using KeyBytes = std::array<std::uint8_t, kKeyBytes>;
using KeyText = std::array<char, kKeyCharacters + 1>;

// Stands before the key in a file, so that a secret one is not taken for a public one and given
// away in a list.
constexpr std::string_view kSecretPrefix = "secret-key ";
constexpr const char* kWantedSecret =
    "wanted a secret key (\"secret-key\" and 40 characters of Z85)";
constexpr std::size_t kMaxKeyFile = 4096;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

// Wiped on every way out.
class Secret {
 public:
  explicit Secret(std::string content) : text(std::move(content)) {}
  ~Secret() { explicit_bzero(text.data(), text.size()); }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;

  std::string text;
};

std::string reason(int error) { return std::generic_category().message(error); }

std::string octal(unsigned mode) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "%04o", mode & 07777u);
  return text.data();
}

// The bytes of a key, or what was found instead.
std::variant<KeyBytes, std::string> decode(std::string_view text) {
  if (text.empty()) return "nothing";
  if (text.size() != kKeyCharacters) return std::to_string(text.size()) + " characters";
  const Secret terminated{std::string(text)};
  KeyBytes bytes{};
  // ZeroMQ would stop at a zero byte and leave the rest of the key zero.
  if (text.find('\0') != std::string_view::npos ||
      zmq_z85_decode(bytes.data(), terminated.text.c_str()) == nullptr)
    return "40 characters that are not Z85";
  return bytes;
}

std::string_view without_line_end(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' '))
    text.remove_suffix(1);
  return text;
}

[[noreturn]] void cannot_write(const fs::path& path, int error) {
  throw Error(ErrorKind::kCannotWrite,
              path.string() + ": wanted to create a file for a key, found: " + reason(error));
}

// A file that was not there before. What cannot be written whole is removed again.
void write_new(const fs::path& path, std::string_view text, mode_t mode) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (file.number() < 0) cannot_write(path, errno);
  const ssize_t written = write(file.number(), text.data(), text.size());
  if (written == static_cast<ssize_t>(text.size()) && fchmod(file.number(), mode) == 0 &&
      fsync(file.number()) == 0)
    return;
  const int error = written >= 0 && written < static_cast<ssize_t>(text.size()) ? ENOSPC : errno;
  unlink(path.c_str());
  cannot_write(path, error);
}

// What is to replace a file, beside it until then. The name is this process's alone, so that two of
// them do not mix their keys.
class Draft {
 public:
  Draft(fs::path path, std::string_view text, mode_t mode)
      : path_(std::move(path)), draft_(path_.string() + ".new." + std::to_string(getpid())) {
    struct stat found = {};
    if (lstat(path_.c_str(), &found) == 0 && S_ISDIR(found.st_mode)) cannot_write(path_, EISDIR);
    unlink(draft_.c_str());
    write_new(draft_, text, mode);
  }
  ~Draft() { unlink(draft_.c_str()); }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  void publish() const {
    if (rename(draft_.c_str(), path_.c_str()) != 0) cannot_write(path_, errno);
  }

 private:
  fs::path path_, draft_;
};

void refuse_existing(const fs::path& path) {
  struct stat found = {};
  if (lstat(path.c_str(), &found) == 0)
    throw Error(ErrorKind::kCannotWrite,
                path.string() + ": wanted no such file yet, found one; --force replaces it");
}

}  // namespace

PublicKey::PublicKey(const KeyBytes& bytes) : bytes_(bytes) {
  KeyText text{};
  zmq_z85_encode(text.data(), bytes_.data(), bytes_.size());
  text_ = text.data();
}

std::string fingerprint(std::string_view key_text) { return std::string(key_text.substr(0, 10)); }

SecretKey::~SecretKey() { explicit_bzero(bytes_.data(), bytes_.size()); }

void require_curve() {
  if (zmq_has("curve") == 1) return;
  throw Error(ErrorKind::kSystem,
              "libzmq: wanted a library with CURVE encryption, found one built without it");
}

KeyPair make_key_pair() {
  require_curve();
  KeyText public_text{};
  Secret secret_text{std::string(kKeyCharacters, '\0')};
  if (zmq_curve_keypair(public_text.data(), secret_text.text.data()) != 0)
    throw Error(ErrorKind::kSystem,
                std::string("keys: wanted a new pair, found: ") + zmq_strerror(zmq_errno()));
  return {PublicKey(std::get<KeyBytes>(decode(public_text.data()))),
          SecretKey(std::get<KeyBytes>(decode(secret_text.text)))};
}

std::variant<PublicKey, std::string> parse_public_key(std::string_view text) {
  if (text.starts_with(kSecretPrefix)) return "a secret key";
  auto decoded = decode(text);
  if (const auto* bytes = std::get_if<KeyBytes>(&decoded)) return PublicKey(*bytes);
  return std::get<std::string>(std::move(decoded));
}

KeyPair read_key_pair(const fs::path& path) {
  require_curve();
  const Secret file{read_guarded_file(path, "a secret key", kMaxKeyFile, S_IRWXG | S_IRWXO)};
  std::string_view text = without_line_end(file.text);
  const auto refuse = [&](const std::string& found) {
    throw Error(kBadKeys, path.string() + ": " + kWantedSecret + ", found " + found);
  };
  if (!text.starts_with(kSecretPrefix))
    refuse(text.empty() ? "nothing" : "a file that does not begin with it");
  text.remove_prefix(kSecretPrefix.size());
  const auto decoded = decode(text);
  if (const auto* found = std::get_if<std::string>(&decoded)) refuse(*found);
  KeyText public_text{};
  if (zmq_curve_public(public_text.data(), Secret{std::string(text)}.text.c_str()) != 0)
    refuse("one without a public key");
  return {PublicKey(std::get<KeyBytes>(decode(public_text.data()))),
          SecretKey(std::get<KeyBytes>(decoded))};
}

void write_key_pair(const fs::path& path, const KeyPair& pair, bool replace) {
  const fs::path public_path = path.string() + ".pub";
  Secret secret{std::string(kSecretPrefix)};
  // Room for all of it at once: a string that grows leaves its old bytes behind.
  secret.text.reserve(kSecretPrefix.size() + kKeyCharacters + 2);
  KeyText text{};
  zmq_z85_encode(text.data(), pair.secret.bytes().data(), kKeyBytes);
  secret.text.append(text.data()).append("\n");
  explicit_bzero(text.data(), text.size());
  const std::string open_text = pair.own.text() + "\n";
  constexpr mode_t kOwnerOnly = 0600, kAllRead = 0644;
  if (replace) {
    // Both are written before either takes its place: a full disk leaves the old pair whole.
    const Draft secret_draft(path, secret.text, kOwnerOnly);
    const Draft public_draft(public_path, open_text, kAllRead);
    secret_draft.publish();
    public_draft.publish();
    return;
  }
  refuse_existing(path);
  refuse_existing(public_path);
  write_new(path, secret.text, kOwnerOnly);
  try {
    write_new(public_path, open_text, kAllRead);
  } catch (const Error&) {
    unlink(path.c_str());
    throw;
  }
}

std::string read_guarded_file(const fs::path& path, const std::string& what, std::size_t limit,
                              unsigned forbidden) {
  const auto missing = [&](int error) {
    throw Error(ErrorKind::kMissingInput,
                path.string() + ": wanted " + what + ", found: " + reason(error));
  };
  // Not blocking, for a pipe would wait for a writer. The mode is that of the file that is read,
  // whatever happens to its name meanwhile.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status = {};
  if (file.number() < 0 || fstat(file.number(), &status) != 0) missing(errno);
  if (S_ISDIR(status.st_mode)) missing(EISDIR);
  if (!S_ISREG(status.st_mode))
    throw Error(kBadKeys,
                path.string() + ": wanted " + what + " in a regular file, found another kind");
  // Whoever owns a file may change it, whatever its mode is.
  if (status.st_uid != 0 && status.st_uid != geteuid())
    throw Error(kBadKeys, path.string() + ": wanted " + what + " that belongs to root or to user " +
                              std::to_string(geteuid()) + ", found one of user " +
                              std::to_string(status.st_uid));
  if ((status.st_mode & forbidden) != 0)
    throw Error(kBadKeys, path.string() + ": wanted " + what + " that " +
                              ((forbidden & S_IROTH) != 0 ? "only its owner may read or write"
                                                          : "not everybody may write") +
                              ", found mode " + octal(status.st_mode));
  // One byte more than may be there, which tells a file that is too long.
  Secret text{std::string(limit + 1, '\0')};
  std::size_t size = 0;
  while (size <= limit) {
    const ssize_t got = read(file.number(), text.text.data() + size, text.text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) missing(errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > limit)
    throw Error(kBadKeys, path.string() + ": wanted " + what + " in at most " +
                              std::to_string(limit) + " bytes, found more");
  return text.text.substr(0, size);
}

}  // namespace offramp
