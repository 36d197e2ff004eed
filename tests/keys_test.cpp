// Keys in files: written with care, and refused unless they are exactly what they should be.
#include "net/keys.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "engine/file.h"
#include "net/allow_list.h"
#include "net/next_keys.h"
#include "tests/test_files.h"

namespace offramp::test {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::TempDir;

unsigned mode_of(const fs::path& path) {
  struct stat status = {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777u;
}

std::string text_of(const fs::path& path) {
  const testing::Bytes bytes = read_file(path);
  return {bytes.begin(), bytes.end()};
}

void check_error(const Error& error, ErrorKind kind, const std::string& names) {
  const std::string what = error.what();
  CAPTURE(what);
  CHECK(error.kind() == kind);
  CHECK(what.find("wanted") != std::string::npos);
  CHECK(what.find("found") != std::string::npos);
  CHECK(what.find(names) != std::string::npos);
  CHECK(what.find('\n') == std::string::npos);
}

// From a file of the next tier's keys with one line.
PublicKey read_public_key(const fs::path& path) {
  return NextKeys::read(path).of("tcp://edge.local:5555");
}

const std::string kSomeKey = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

}  // namespace

TEST_CASE("keys: what is written is read back, for nobody else's eyes") {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key";
  const KeyPair pair = make_key_pair();
  const mode_t before = umask(0);
  write_key_pair(path, pair, false);
  umask(before);
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(path.string() + ".pub") == 0644);
  const KeyPair read = read_key_pair(path);
  CHECK(read.own == pair.own);
  CHECK(read.secret.bytes() == pair.secret.bytes());
  CHECK(read_public_key(path.string() + ".pub") == pair.own);
  CHECK(text_of(path.string() + ".pub") == pair.own.text() + "\n");
  CHECK(text_of(path).size() == std::string("secret-key ").size() + 40 + 1);
  CHECK(make_key_pair().own != pair.own);
}

TEST_CASE("keys: a file that is there stays, unless it is to be replaced") {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key", pub = path.string() + ".pub";
  SUBCASE("the secret key is there") { folder.write("self.key", "mine"); }
  SUBCASE("the public key is there") { folder.write("self.key.pub", "mine"); }
  SUBCASE("a dangling link is there") { fs::create_symlink("elsewhere", path); }
  const bool secret = fs::is_regular_file(path), is_public = fs::exists(pub);
  check_error(error_of([&] { write_key_pair(path, make_key_pair(), false); }),
              ErrorKind::kCannotWrite, path.string());
  CHECK(fs::exists(path) == secret);
  CHECK(fs::exists(pub) == is_public);
  CHECK_FALSE(fs::exists(folder.path() / "elsewhere"));
  if (secret) CHECK(text_of(path) == "mine");
  if (is_public) CHECK(text_of(pub) == "mine");

  const KeyPair pair = make_key_pair();
  write_key_pair(path, pair, true);
  CHECK(read_key_pair(path).own == pair.own);
  CHECK(read_public_key(pub) == pair.own);
  CHECK(mode_of(path) == 0600);
  CHECK(fs::is_regular_file(fs::symlink_status(path)));
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 2);
}

TEST_CASE("keys: unless both can be replaced, neither is") {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key", pub = path.string() + ".pub";
  const KeyPair old = make_key_pair();
  write_key_pair(path, old, false);
  const auto refused = [&] {
    check_error(error_of([&] { write_key_pair(path, make_key_pair(), true); }),
                ErrorKind::kCannotWrite, "self.key.pub");
    CHECK(read_key_pair(path).own == old.own);
    CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 2);
  };
  fs::remove(pub);
  fs::create_directory(pub);
  refused();
}

TEST_CASE("keys: a draft that another one has left behind is not in the way") {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key";
  for (const char* name : {"self.key", "self.key.pub"}) {
    folder.write(std::string(name) + ".new/file", "old");
    folder.write(std::string(name) + ".new." + std::to_string(getpid()), "old");
  }
  const KeyPair pair = make_key_pair();
  write_key_pair(path, pair, true);
  CHECK(read_key_pair(path).own == pair.own);
  CHECK(read_public_key(path.string() + ".pub") == pair.own);
}

TEST_CASE("keys: files of another user are refused" * doctest::skip(geteuid() != 0)) {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key";
  write_key_pair(path, make_key_pair(), false);
  const fs::path pub = path.string() + ".pub", list = folder.write("allow", "# nobody\n");
  const auto give = [](const fs::path& file, uid_t user) {
    REQUIRE(chown(file.c_str(), user, static_cast<gid_t>(-1)) == 0);
  };
  for (const fs::path& file : {path, pub, list}) give(file, 65534);
  check_error(error_of([&] { read_key_pair(path); }), kBadKeys, "found one of user 65534");
  check_error(error_of([&] { read_public_key(pub); }), kBadKeys, "found one of user 65534");
  check_error(error_of([&] { AllowList::read(list); }), kBadKeys, "found one of user 65534");
  // Those of root and of oneself are taken.
  REQUIRE(chmod(folder.path().c_str(), 0755) == 0);
  REQUIRE(seteuid(65534) == 0);
  CHECK_NOTHROW(read_key_pair(path));
  REQUIRE(seteuid(0) == 0);
  give(list, 0);
  CHECK_NOTHROW(AllowList::read(list));
}

TEST_CASE("keys: a folder that cannot be written is named") {
  const TempDir folder;
  check_error(
      error_of([&] { write_key_pair(folder.path() / "absent" / "key", make_key_pair(), false); }),
      ErrorKind::kCannotWrite, "absent/key");
  check_error(
      error_of([&] { write_key_pair(folder.path() / "absent" / "key", make_key_pair(), true); }),
      ErrorKind::kCannotWrite, "absent/key");
}

TEST_CASE("keys: a secret that others may read or write is refused") {
  const TempDir folder;
  const fs::path path = folder.path() / "self.key";
  write_key_pair(path, make_key_pair(), false);
  for (const mode_t mode : {0640u, 0620u, 0610u, 0604u, 0602u, 0601u, 0660u, 0644u, 0777u}) {
    REQUIRE(chmod(path.c_str(), mode) == 0);
    check_error(error_of([&] { read_key_pair(path); }), kBadKeys, "owner");
  }
  for (const mode_t mode : {0600u, 0400u, 0700u}) {
    REQUIRE(chmod(path.c_str(), mode) == 0);
    CHECK_NOTHROW(read_key_pair(path));
  }
  const fs::path pub = path.string() + ".pub";
  REQUIRE(chmod(pub.c_str(), 0646) == 0);
  check_error(error_of([&] { read_public_key(pub); }), kBadKeys, "everybody");
  REQUIRE(chmod(pub.c_str(), 0664) == 0);
  CHECK_NOTHROW(read_public_key(pub));
}

TEST_CASE("keys: a damaged file is refused, and a secret is never repeated") {
  const TempDir folder;
  const KeyPair pair = make_key_pair();
  const fs::path path = folder.path() / "self.key", pub = path.string() + ".pub";
  write_key_pair(path, pair, false);
  const std::string secret = text_of(path), open_text = text_of(pub);
  const auto refused = [&](const std::string& content, bool is_secret) {
    CAPTURE(content);
    const fs::path damaged = folder.write("damaged", content);
    REQUIRE(chmod(damaged.c_str(), 0600) == 0);
    const Error error = error_of([&] {
      if (is_secret)
        read_key_pair(damaged);
      else
        read_public_key(damaged);
    });
    check_error(error, kBadKeys, damaged.string());
    CHECK(std::string(error.what()).find(secret.substr(11, 8)) == std::string::npos);
  };
  // Every truncation; only the end of the line may be missing.
  for (std::size_t size = 0; size + 1 < secret.size(); ++size)
    refused(secret.substr(0, size), true);
  for (std::size_t size = 0; size + 1 < open_text.size(); ++size)
    refused(open_text.substr(0, size), false);
  refused(secret.substr(0, secret.size() - 1) + "0\n", true);
  refused(open_text.substr(0, 40) + "0", false);
  refused(open_text.substr(0, 40) + "\n" + open_text, false);
  for (const char wrong : {'"', '\\', ' ', '~', '\0', '\n', '\x80', '_'}) {
    for (const std::size_t at : {0u, 17u, 35u, 38u}) {
      std::string text = open_text;
      text[at] = wrong;
      refused(text, false);
      text = secret;
      text[11 + at] = wrong;
      refused(text, true);
    }
  }
  // 85^5 is more than 2^32: five characters that are no four bytes.
  refused("#####" + open_text.substr(5), false);
  refused("secret-key #####" + open_text.substr(5), true);
  // One kind in the place of the other.
  refused(open_text, true);
  refused(secret, false);
  refused(std::string(5000, '0'), true);
  refused(std::string(5000, '0'), false);
  CHECK(std::string(error_of([&] { read_public_key(path); }).what()).find("a secret key") !=
        std::string::npos);
}

TEST_CASE("keys: what is no regular file is refused at once") {
  const TempDir folder;
  check_error(error_of([&] { read_key_pair(folder.path() / "absent"); }), ErrorKind::kMissingInput,
              "absent");
  check_error(error_of([&] { read_public_key(folder.path()); }), ErrorKind::kMissingInput,
              folder.path().string());
  const fs::path pipe = folder.path() / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  check_error(error_of([&] { read_key_pair(pipe); }), kBadKeys, "regular");
  check_error(error_of([&] { read_public_key("/dev/zero"); }), kBadKeys, "");
}

TEST_CASE("next keys: one for all, or one for each endpoint") {
  const std::string first = make_key_pair().own.text(), second = make_key_pair().own.text();
  const NextKeys keys = NextKeys::parse("# the edges\n\n" + kSomeKey + "\r\n" + first +
                                            " edge-1:5555\n#\n\t" + second + "  [::1]:5555 \n",
                                        "next.pub");
  CHECK(keys.of("tcp://edge-1:5555").text() == first);
  CHECK(keys.of("tcp://[::1]:5555").text() == second);
  CHECK(keys.of("tcp://edge-1:5556").text() == kSomeKey);
  CHECK(keys.of("tcp://edge-2:5555").text() == kSomeKey);

  const NextKeys named = NextKeys::parse(first + " edge-1:5555", "next.pub");
  CHECK(named.of("tcp://edge-1:5555").text() == first);
  check_error(error_of([&] { named.of("tcp://edge-2:5555"); }), kBadKeys, "edge-2:5555");
}

TEST_CASE("next keys: a line that is none is refused, with its number") {
  const std::string other = make_key_pair().own.text();
  const std::vector<std::string> wrong = {other.substr(1),
                                          other + "0",
                                          kSomeKey,
                                          other + " edge",
                                          other + " edge:",
                                          other + " :5555",
                                          other + " edge-1:5555",
                                          other + " tcp://edge:5555",
                                          other + " edge:5x5",
                                          other + " edge:5555 edge:5556",
                                          "device " + other,
                                          "secret-key " + other};
  const std::string two_keys = kSomeKey + "\n" + other + " edge-1:5555\n";
  for (const std::string& line : wrong) {
    CAPTURE(line);
    std::string text = two_keys;
    text += line + "\n";
    const Error error = error_of([&] { NextKeys::parse(text, "keys/next.pub"); });
    check_error(error, kBadKeys, "keys/next.pub: line 3: ");
    CHECK(std::string(error.what()).find(other.substr(5, 8)) == std::string::npos);
  }
  for (const char* nothing : {"", "\n", "# only words\n"})
    check_error(error_of([&] { NextKeys::parse(nothing, "keys/next.pub"); }), kBadKeys,
                "found nothing");
}

TEST_CASE("allow-list: roles, names, comments") {
  const std::string other = make_key_pair().own.text(), third = make_key_pair().own.text();
  const AllowList list = AllowList::parse("# cameras\n\n  # indented\ndevice " + kSomeKey +
                                              " the gate \r\nedge\t" + other + "\n any   " + third,
                                          "allow");
  CHECK(list.size() == 3);
  REQUIRE(list.find(kSomeKey) != nullptr);
  CHECK(*list.find(kSomeKey) == AllowList::Entry{.role = Role::kDevice, .name = "the gate"});
  REQUIRE(list.find(other) != nullptr);
  CHECK(*list.find(other) == AllowList::Entry{.role = Role::kEdge, .name = ""});
  REQUIRE(list.find(third) != nullptr);
  CHECK(list.find(third)->role == Role::kAny);
  CHECK(list.find(make_key_pair().own.text()) == nullptr);
  CHECK(list.find("") == nullptr);
  CHECK(AllowList::parse("", "allow").size() == 0);
}

TEST_CASE("allow-list: each tier takes work from the one before it") {
  CHECK(may_connect(Role::kDevice, Tier::kEdge));
  CHECK(may_connect(Role::kEdge, Tier::kCloud));
  for (const Tier tier : {Tier::kEdge, Tier::kCloud}) {
    CHECK(may_connect(Role::kAny, tier));
    CHECK_FALSE(may_connect(Role::kCloud, tier));
  }
  CHECK_FALSE(may_connect(Role::kDevice, Tier::kCloud));
  CHECK_FALSE(may_connect(Role::kEdge, Tier::kEdge));
}

TEST_CASE("allow-list: a line that is none is refused, with its number") {
  const std::string good = "device " + kSomeKey + "\n";
  const std::vector<std::string> wrong = {
      "phone " + kSomeKey,
      "device",
      kSomeKey,
      kSomeKey + " device",
      "device " + kSomeKey.substr(1),
      "device " + kSomeKey + "0",
      "device \"" + kSomeKey.substr(1),
      "device secret-key " + kSomeKey,
      "edge " + kSomeKey,
      "Device " + make_key_pair().own.text(),
      "device " + make_key_pair().own.text() + " caf\xc3\xa9",
      "device " + make_key_pair().own.text() + " " + std::string(65, 'x')};
  for (const std::string& line : wrong) {
    CAPTURE(line);
    std::string text = good;
    text.append("\n").append(line).append("\n");
    const Error error = error_of([&] { AllowList::parse(text, "keys/allow"); });
    check_error(error, kBadKeys, "keys/allow: line 3: ");
  }
  CHECK_NOTHROW(AllowList::parse(good + "\ndevice " + make_key_pair().own.text(), "keys/allow"));

  const TempDir folder;
  const fs::path path = folder.write("allow", good);
  CHECK(AllowList::read(path).size() == 1);
  REQUIRE(chmod(path.c_str(), 0646) == 0);
  check_error(error_of([&] { AllowList::read(path); }), kBadKeys, "everybody");
  check_error(error_of([&] { AllowList::read(folder.path() / "absent"); }),
              ErrorKind::kMissingInput, "absent");
}

}  // namespace offramp::test
