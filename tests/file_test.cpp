// Files that are read, and that others overwrite meanwhile.
#include "engine/file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/error.h"
#include "engine/interpreter.h"
#include "engine/model.h"
#include "tests/test_files.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;

ErrorKind kind_of(const fs::path& path, std::size_t most = kMaxFileBytes) {
  try {
    static_cast<void>(read_file(path, most));
  } catch (const Error& error) {
    CHECK(std::string(error.what()).starts_with(path.string() + ": wanted "));
    return error.kind();
  }
  FAIL("read");
  return {};
}

TEST_CASE("a file is read whole, and what is none is refused") {
  const TempDir dir;
  CHECK(read_file(dir.write("some", "text")) == Bytes{'t', 'e', 'x', 't'});
  CHECK(read_file(dir.write("none", "")).empty());
  CHECK(read_file(dir.write("some", "text"), 4).size() == 4);
  CHECK(kind_of(dir.path() / "some", 3) == ErrorKind::kBadData);
  CHECK(kind_of(dir.path()) == ErrorKind::kMissingInput);
  CHECK(kind_of(dir.path() / "absent") == ErrorKind::kMissingInput);
  const fs::path pipe = dir.path() / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(kind_of(pipe) == ErrorKind::kMissingInput);
  // A hole of a terabyte is not read to find that it is too large.
  fs::resize_file(dir.path() / "some", std::uintmax_t{1} << 40);
  CHECK(kind_of(dir.path() / "some") == ErrorKind::kBadData);
}

TEST_CASE("a model stays what it was while its file is overwritten and cut short") {
  const TempDir dir;
  const Bytes bytes = small_model().signed_file();
  const fs::path path = dir.write("m", bytes);
  const Model model = load_model(path), wanted = parse_model(bytes, "wanted");
  dir.write("m", std::string(bytes.size(), 'x'));
  fs::resize_file(path, 0);
  const std::vector<float> picture(model.graph.values[0].elements(), 0.5f);
  CHECK(interpret(model.graph, picture) == interpret(wanted.graph, picture));
}

}  // namespace
}  // namespace offramp::testing
