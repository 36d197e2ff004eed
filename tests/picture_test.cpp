#include "engine/picture.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "engine/file.h"
#include "engine/resize.h"
#include "tests/test_files.h"

namespace offramp {
namespace {

using testing::Bytes;
using testing::error_of;
using testing::png_chunk;
using testing::random_picture;
using testing::TempDir;

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(OFFRAMP_SOURCE_DIR) / "tests/fixtures" / name;
}

int largest_difference(const Bytes& a, const Bytes& b) {
  REQUIRE(a.size() == b.size());
  int most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

void append(Bytes& bytes, const Bytes& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

// Under ThreadSanitizer its shadow memory would be measured.
#ifdef __SANITIZE_THREAD__
constexpr bool kMemoryIsOurs = false;
#else
constexpr bool kMemoryIsOurs = true;
#endif

// Kilobytes the process ever held in memory.
long peak_memory_kb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

void check_refused(const Bytes& file, const std::string& found) {
  const long before = peak_memory_kb();
  const Error error = error_of([&] { (void)decode_picture(file, "x"); });
  CHECK(error.kind() == ErrorKind::kBadData);
  const std::string message = error.what();
  INFO(message);
  CHECK(message.starts_with("x: wanted "));
  CHECK(message.find(found) != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
  if (kMemoryIsOurs) CHECK(peak_memory_kb() - before < 64 * 1024);
}

Bytes ihdr(std::uint32_t width, std::uint32_t height, std::uint8_t depth, std::uint8_t color) {
  Bytes data;
  for (const std::uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      data.push_back(static_cast<std::uint8_t>(side >> shift));
    }
  }
  append(data, {depth, color, 0, 0, 0});
  return data;
}

Bytes png(const Bytes& header, const Bytes& data) {
  Bytes file{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  append(file, png_chunk("IHDR", header));
  append(file, png_chunk("IDAT", data));
  append(file, png_chunk("IEND", {}));
  return file;
}

// Position just behind the first `marker` (0xff, marker) of a JPEG.
std::size_t behind_marker(const Bytes& jpeg, std::uint8_t marker) {
  for (std::size_t i = 0; i + 1 < jpeg.size(); ++i) {
    if (jpeg[i] == 0xff && jpeg[i + 1] == marker) return i + 2;
  }
  FAIL("no such marker");
  return 0;
}

TEST_CASE("pictures of every kind become the RGB that Pillow reads") {
  for (const std::string name : {"rgb.png", "rgba.png", "grey.png", "grey_alpha.png", "palette.png",
                                 "one_bit.png", "rgb.bmp", "palette.bmp", "rgba.bmp"}) {
    CAPTURE(name);
    const Picture picture = read_picture(fixture(name));
    CHECK(picture.width == 27);
    CHECK(picture.height == 20);
    CHECK(picture.rgb == read_file(fixture(name + ".rgb")));
  }
}

TEST_CASE("JPEG pictures differ from libjpeg's decoding by rounding only") {
  // Chroma at half resolution is interpolated by another filter at the borders.
  struct Case {
    std::string name;
    int tolerance;
  };
  const Case cases[] = {
      {"baseline.jpg", 3}, {"progressive.jpg", 12}, {"grey.jpg", 2}, {"subsampled.jpg", 12}};
  for (const Case& c : cases) {
    CAPTURE(c.name);
    const Picture picture = read_picture(fixture(c.name));
    CHECK(picture.width == 27);
    CHECK(picture.height == 20);
    CHECK(largest_difference(picture.rgb, read_file(fixture(c.name + ".rgb"))) <= c.tolerance);
  }
}

TEST_CASE("the tests' own PNG comes back") {
  const Picture picture = random_picture(19, 23, 5);
  CHECK(decode_picture(testing::encode_png(picture), "x").rgb == picture.rgb);
}

TEST_CASE("files that are not pictures of ours are refused by name") {
  check_refused({}, "an empty file");
  check_refused({'h', 'e', 'l', 'l', 'o'}, "68 65 6c 6c");
  check_refused({0xff}, "ff");
  check_refused(read_file(fixture("bad_gif.png")), "GIF");
  check_refused(read_file(fixture("bad_16_bit.png")), "found 16");
  check_refused(read_file(fixture("bad_cmyk.jpg")), "found 4");
}

TEST_CASE("missing files and folders are told apart") {
  const TempDir dir;
  const auto check = [](const std::filesystem::path& path, const std::string& found) {
    const Error error = error_of([&] { (void)read_picture(path); });
    CHECK(error.kind() == ErrorKind::kMissingInput);
    CHECK(std::string(error.what()) == path.string() + ": wanted a file, found " + found);
  };
  check(dir.path() / "none.png", "none");
  check(dir.path(), "a folder");
  check(dir.write("file", "x") / "child.png", "Not a directory");
  check("/dev/null", "something that is not a regular file");
  CHECK(error_of([&] { (void)read_picture(dir.write("empty.png", "")); }).kind() ==
        ErrorKind::kBadData);
}

TEST_CASE("every truncation of every kind of picture is refused") {
  for (const char* name :
       {"baseline.jpg", "progressive.jpg", "rgb.png", "palette.png", "rgb.bmp"}) {
    CAPTURE(name);
    const Bytes whole = read_file(fixture(name));
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      CHECK_THROWS_AS(decode_picture(part, name), Error);
    }
  }
}

TEST_CASE("every bit flip of a PNG is refused, and of a JPEG or BMP survived") {
  const auto flipped_ones_read = [](const char* name) {
    Bytes file = read_file(fixture(name));
    int read = 0;
    for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
      file[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
      try {
        const Picture picture = decode_picture(file, name);
        CHECK(picture.rgb.size() == 3u * static_cast<unsigned>(picture.width * picture.height));
        ++read;
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kBadData);
      }
      file[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    }
    return read;
  };
  CHECK(flipped_ones_read("palette.png") == 0);
  CHECK(flipped_ones_read("progressive.jpg") > 0);
  CHECK(flipped_ones_read("palette.bmp") > 0);
}

TEST_CASE("huge pictures are refused before memory is taken") {
  const Bytes little = {0x78, 0x9c, 0x03, 0, 0, 0, 0, 1};
  check_refused(png(ihdr(60000, 60000, 8, 2), little), "60000 x 60000");
  check_refused(png(ihdr(16384, 16384, 8, 2), little), "16384 x 16384");
  check_refused(png(ihdr(4096, 4096, 8, 6), little), "too few to hold them");
  check_refused(png(ihdr(0, 5, 8, 2), little), "0 x 5");
  // Enough compressed bytes to be plausible, but more to decode than may be held at once.
  check_refused(png(ihdr(4096, 4096, 8, 6), Bytes(80'000)), "60 MiB");

  Bytes jpeg = read_file(fixture("baseline.jpg"));
  const std::size_t size = behind_marker(jpeg, 0xc0) + 3;
  jpeg[size] = jpeg[size + 2] = 0x0f;
  check_refused(jpeg, "too few to hold them");
  jpeg[size] = jpeg[size + 2] = 0xea;
  check_refused(jpeg, "59931 x 59924");

  Bytes bmp = read_file(fixture("rgb.bmp"));
  bmp[19] = 0x10;
  check_refused(bmp, "a whole BMP");
  bmp[20] = 1;
  check_refused(bmp, "sides of 1");
  bmp[25] = 0x80;
  check_refused(bmp, "sides of 1");
}

TEST_CASE("a stream that inflates to more than its picture stays within the budget") {
  // One final block of fixed codes: a zero, then matches of 258 zeros (code 285, five ones,
  // distance 0) repeated over and over. 13 bits each: 0xa3 of length and 00000 of distance.
  Bytes bits;
  int used = 8;
  const auto put = [&](std::uint32_t value, int count) {
    for (int i = 0; i < count; ++i) {
      if (used == 8) {
        bits.push_back(0);
        used = 0;
      }
      bits.back() |= static_cast<std::uint8_t>(((value >> i) & 1u) << used++);
    }
  };
  put(1, 1);     // final
  put(1, 2);     // fixed codes
  put(0x0c, 8);  // literal 0: 00110000, most significant bit first
  for (int i = 0; i < 600'000; ++i) {
    put(0xa3, 8);  // length code 285: 11000101, most significant bit first
    put(0, 5);     // distance 1
  }
  put(0, 7);  // end of block
  Bytes data{0x78, 0x01};
  append(data, bits);
  append(data, {0, 0, 0, 0});
  check_refused(png(ihdr(4, 4, 8, 2), data), "x: wanted a whole picture");
}

TEST_CASE("JPEG files that point stb_image out of its tables are refused") {
  const Bytes good = read_file(fixture("baseline.jpg"));
  CHECK_NOTHROW(decode_picture(good, "x"));
  const std::size_t dht = behind_marker(good, 0xc4);
  const std::size_t sos = behind_marker(good, 0xda);
  const std::size_t sof = behind_marker(good, 0xc0);
  const std::size_t dqt = behind_marker(good, 0xdb);
  const auto with = [&](std::size_t at, std::uint8_t value) {
    Bytes bad = good;
    bad[at] = value;
    return bad;
  };
  check_refused(with(dht + 2, 0x04), "found 4");     // table 4
  check_refused(with(dht + 2, 0x20), "found 32");    // neither DC nor AC
  check_refused(with(dht + 3, 200), "too many");     // 200 codes of one bit
  check_refused(with(sos + 4, 0x33), "others");      // tables never defined
  check_refused(with(sos + 2, 4), "found 4");        // components in the scan
  check_refused(with(sos + 3, 77), "others");        // no such component
  check_refused(with(sof + 2, 12), "found 12");      // bits
  check_refused(with(sof + 9, 0x50), "others");      // sampling
  check_refused(with(dqt + 2, 0x07), "found 7");     // quantisation table 7
  check_refused(with(sof - 1, 0xc9), "marker 201");  // arithmetic coding
  check_refused(with(sos + 1, 3), "truncated");      // short segment

  Bytes fractional = with(sof + 9, 0x31);
  fractional[sof + 12] = 0x21;  // sampling 3 : 2
  check_refused(fractional, "others");

  Bytes no_tables = good;
  no_tables[dht - 1] = 0xfe;  // the first Huffman table becomes a comment
  check_refused(no_tables, "others");
}

TEST_CASE("resizing agrees with Pillow bit for bit") {
  struct Case {
    int width, height, to_width, to_height;
  };
  for (const auto [width, height, to_width, to_height] :
       {Case{37, 29, 16, 16}, Case{5, 7, 13, 11}, Case{16, 16, 16, 9}, Case{16, 16, 31, 16},
        Case{64, 48, 7, 5}, Case{1, 1, 4, 3}, Case{50, 3, 3, 20}}) {
    const auto text = [](int w, int h) { return std::to_string(w) + "x" + std::to_string(h); };
    const std::string name =
        "resize_" + text(width, height) + "_to_" + text(to_width, to_height) + ".rgb";
    CAPTURE(name);
    const Picture result = resize(random_picture(width, height, 1), to_width, to_height);
    CHECK(result.width == to_width);
    CHECK(result.height == to_height);
    CHECK(result.rgb == read_file(fixture(name)));
  }
}

TEST_CASE("a window of a resized picture is the same pixels") {
  const Picture picture = random_picture(41, 33, 9);
  for (const int width : {20, 41, 77}) {
    const int height = 30;
    const Picture whole = resize(picture, width, height);
    const Window window{3, 5, 11, 19};
    const Picture part = resize_window(picture, width, height, window);
    for (int y = 0; y < window.height; ++y) {
      const auto from = whole.rgb.begin() + ((y + window.top) * width + window.left) * 3;
      const auto to = part.rgb.begin() + y * window.width * 3;
      CHECK(std::equal(to, to + window.width * 3, from));
    }
  }
}

TEST_CASE("preprocessing agrees with torchvision bit for bit") {
  struct Case {
    int width, height, shorter, crop_width, crop_height;
  };
  for (const auto& c :
       {Case{37, 29, 20, 18, 15}, Case{21, 40, 16, 16, 16}, Case{19, 19, 32, 30, 27}}) {
    const std::string name = "shorter_" + std::to_string(c.width) + "x" + std::to_string(c.height) +
                             "_to_" + std::to_string(c.shorter) + "_crop_" +
                             std::to_string(c.crop_width) + "x" + std::to_string(c.crop_height) +
                             ".f32";
    CAPTURE(name);
    const Preprocess how{.input = {3, c.crop_height, c.crop_width},
                         .resize = Preprocess::Resize::kShorter,
                         .resize_to = c.shorter,
                         .mean = {0.485f, 0.456f, 0.406f},
                         .std = {0.229f, 0.224f, 0.225f}};
    std::vector<float> input(how.input.elements());
    preprocess(random_picture(c.width, c.height, 1), how, input.data());
    const Bytes wanted = read_file(fixture(name));
    REQUIRE(wanted.size() == input.size() * sizeof(float));
    CHECK(std::memcmp(wanted.data(), input.data(), wanted.size()) == 0);
  }
}

TEST_CASE("preprocessing stretches to the input size") {
  const Preprocess how{.input = {3, 5, 7}, .mean = {0.5f, 0, 0}, .std = {0.5f, 1, 2}};
  const Picture picture = random_picture(12, 9, 3);
  const Picture resized = resize(picture, 7, 5);
  std::vector<float> input(how.input.elements()), same(how.input.elements());
  preprocess(picture, how, input.data());
  preprocess(resized, how, same.data());
  CHECK(input == same);
  CHECK(input[0] == (static_cast<float>(resized.rgb[0]) / 255.0f - 0.5f) / 0.5f);
  CHECK(input[104] == static_cast<float>(resized.rgb[104]) / 255.0f / 2.0f);
}

TEST_CASE("narrow pictures are cropped without being resized whole, too small ones refused") {
  Preprocess how{.input = {3, 8, 8}, .resize = Preprocess::Resize::kShorter, .resize_to = 4096};
  std::vector<float> input(how.input.elements());
  const long before = peak_memory_kb();
  preprocess(random_picture(1, 16384, 1), how, input.data());  // 4096 x 67 million once resized
  if (kMemoryIsOurs) CHECK(peak_memory_kb() - before < 64 * 1024);
  how.resize_to = 7;
  CHECK(error_of([&] { preprocess(random_picture(9, 9, 1), how, input.data()); }).kind() ==
        ErrorKind::kBadData);
}

}  // namespace
}  // namespace offramp
