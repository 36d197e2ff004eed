#include "engine/dataset.h"

#include <doctest/doctest.h>

#include <thread>

#include "tests/test_files.h"
#include "tests/test_wait.h"

namespace offramp {
namespace {

using testing::Bytes;
using testing::encode_png;
using testing::error_of;
using testing::random_picture;
using testing::TempDir;

const std::vector<std::string> kClasses{"airplane", "automobile", "bird",  "cat",  "deer",
                                        "dog",      "frog",       "horse", "ship", "truck"};
constexpr std::string_view kMeta =
    "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";

constexpr std::size_t kRecord = 3073;

// Record i has label i % 10, and value 64 * colour + row + i at every pixel of a row.
Bytes records(std::size_t count) {
  Bytes bytes;
  for (std::size_t i = 0; i < count; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(i % 10));
    for (std::size_t p = 0; p < 3072; ++p) {
      bytes.push_back(static_cast<std::uint8_t>(64 * (p / 1024) + p % 1024 / 32 + i));
    }
  }
  return bytes;
}

void check_refused(const TempDir& dir, const std::vector<std::string>& classes,
                   const std::string& found) {
  const Error error = error_of([&] { (void)open_dataset(dir.path(), classes); });
  const std::string message = error.what();
  INFO(message);
  CHECK(error.kind() == ErrorKind::kBadData);
  CHECK(message.starts_with(dir.path().string()));
  CHECK(message.find(found) != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("CIFAR-10's binary layout is read, in the folder or one below") {
  for (const std::string prefix : {"", "cifar-10-batches-bin/"}) {
    CAPTURE(prefix);
    const TempDir dir;
    dir.write(prefix + "test_batch.bin", records(13));
    dir.write(prefix + "batches.meta.txt", kMeta);
    const auto dataset = open_dataset(dir.path(), kClasses);
    REQUIRE(dataset->size() == 13);
    CHECK(dataset->label(12) == 2);
    CHECK(dataset->name(12) == "test_batch.bin#12");
    const Picture picture = dataset->picture(12);
    CHECK(picture.width == 32);
    CHECK(picture.height == 32);
    REQUIRE(picture.rgb.size() == 3072);
    const std::size_t at = (7 * 32 + 30) * 3;  // row 7, column 30
    CHECK(picture.rgb[at] == 7 + 12);
    CHECK(picture.rgb[at + 1] == 64 + 7 + 12);
    CHECK(picture.rgb[at + 2] == 128 + 7 + 12);
  }
}

TEST_CASE("threads read the same pictures") {
  const TempDir dir;
  dir.write("test_batch.bin", records(50));
  const auto dataset = open_dataset(dir.path(), kClasses);
  std::vector<std::vector<std::uint8_t>> seen(4);
  std::vector<std::jthread> threads;
  for (auto& bytes : seen) {
    threads.push_back(testing::beside([&] {
      for (std::size_t i = 0; i < dataset->size(); ++i) {
        const Picture picture = dataset->picture(i);
        bytes.insert(bytes.end(), picture.rgb.begin(), picture.rgb.end());
      }
    }));
  }
  threads.clear();
  for (const auto& bytes : seen) CHECK(bytes == seen[0]);
  CHECK(seen[0].size() == 50 * 3072);
}

TEST_CASE("CIFAR files of the wrong size, labels or classes are refused") {
  const TempDir dir;
  Bytes bytes = records(2);
  bytes.pop_back();
  dir.write("test_batch.bin", bytes);
  check_refused(dir, kClasses, "found 6145 bytes");
  dir.write("test_batch.bin", "");
  check_refused(dir, kClasses, "found 0 bytes");
  bytes = records(2);
  bytes[kRecord] = 10;
  dir.write("test_batch.bin", bytes);
  check_refused(dir, kClasses, "found 10 in record 1");
  dir.write("test_batch.bin", records(2));
  check_refused(dir, {"cat", "dog"}, "found 2 classes");
  std::vector<std::string> swapped = kClasses;
  std::swap(swapped[0], swapped[1]);
  dir.write("batches.meta.txt", kMeta);
  check_refused(dir, swapped, "automobile airplane bird");
  check_refused(dir, swapped, "found airplane automobile bird");
  CHECK_NOTHROW(open_dataset(dir.path(), kClasses));
}

TEST_CASE("a folder with one subfolder per class is read in order") {
  const TempDir dir;
  dir.write("dog/b.PNG", encode_png(random_picture(5, 4, 1)));
  dir.write("dog/a.png", encode_png(random_picture(6, 4, 2)));
  dir.write("cat/c.jpeg", "broken");
  dir.write("cat/notes.txt", "ignored");
  dir.write("README.md", "ignored");
  const auto dataset = open_dataset(dir.path(), {"owl", "dog", "cat"});
  REQUIRE(dataset->size() == 3);
  CHECK(dataset->name(0) == (dir.path() / "cat/c.jpeg").string());
  CHECK(dataset->label(0) == 2);
  CHECK(dataset->name(1) == (dir.path() / "dog/a.png").string());
  CHECK(dataset->label(1) == 1);
  CHECK(dataset->picture(1).width == 6);
  CHECK(dataset->picture(2).rgb == random_picture(5, 4, 1).rgb);
  CHECK(error_of([&] { (void)dataset->picture(0); }).kind() == ErrorKind::kBadData);
}

TEST_CASE("folders that are no data set are refused") {
  const TempDir dir;
  const std::vector<std::string> classes{"cat", "dog"};
  check_refused(dir, classes, "none of them");
  dir.write("cat/notes.txt", "no picture");
  check_refused(dir, classes, "none of them");
  dir.write("cow/a.png", encode_png(random_picture(5, 4, 1)));
  check_refused(dir, classes, "found 'cow'");

  const auto kind = [&](const std::filesystem::path& path) {
    return error_of([&] { (void)open_dataset(path, classes); }).kind();
  };
  CHECK(kind(dir.path() / "none") == ErrorKind::kMissingInput);
  CHECK(kind(dir.path() / "cow/a.png") == ErrorKind::kMissingInput);
}

}  // namespace
}  // namespace offramp
