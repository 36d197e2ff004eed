// Lines of the files that list keys: words, blanks, comments, and what is said of a wrong one.
#include "net/key_lines.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/test_files.h"

namespace offramp::test {
namespace {

TEST_CASE("key lines: blank ones and comments are counted and passed over") {
  KeyLines lines("\n # device\n\t\r\n one\ttwo  \r\n#\nthree", "list");
  REQUIRE(lines.next());
  CHECK(lines.number() == 4);
  CHECK(lines.rest() == "one\ttwo");
  CHECK(lines.word() == "one");
  CHECK(lines.rest() == "two");
  CHECK(lines.word() == "two");
  CHECK(lines.word().empty());
  REQUIRE(lines.next());
  CHECK(lines.number() == 6);
  CHECK(lines.word() == "three");
  CHECK(lines.rest().empty());
  CHECK_FALSE(lines.next());
  CHECK_FALSE(KeyLines("", "list").next());
  CHECK_FALSE(KeyLines(" \n\n", "list").next());
}

TEST_CASE("key lines: a key is read, and nothing else is taken for one or repeated") {
  const PublicKey key = make_key_pair().own;
  const std::string text = "edge " + key.text() + " a name # no comment\n";
  KeyLines good(text, "list");
  REQUIRE(good.next());
  CHECK(good.word() == "edge");
  CHECK(good.key() == key);
  CHECK(good.rest() == "a name # no comment");

  const auto refused = [](const std::string& line) {
    const std::string both = "\n" + line;
    KeyLines lines(both, "list");
    REQUIRE(lines.next());
    lines.word();
    const Error error = testing::error_of([&] { lines.key(); });
    CHECK(error.kind() == kBadKeys);
    return std::string(error.what());
  };
  const std::string wanted = "list: line 2: wanted a public key (40 characters of Z85), found ";
  CHECK(refused("edge") == wanted + "nothing");
  CHECK(refused("edge abc") == wanted + "3 characters");
  CHECK(refused("edge secret-key " + key.text()) == wanted + "a secret key");
  CHECK(refused("edge " + std::string(40, '"')) == wanted + "40 characters that are not Z85");
}

}  // namespace
}  // namespace offramp::test
