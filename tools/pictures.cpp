#include "tools/pictures.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "engine/error.h"
#include "tools/options.h"

namespace offramp::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::uint8_t> read_standard_input() {
  std::vector<std::uint8_t> bytes;
  std::array<std::uint8_t, 65536> block;
  for (;;) {
    const ssize_t got = read(STDIN_FILENO, block.data(), block.size());
    if (got == 0) return bytes;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(ErrorKind::kMissingInput,
                  std::string("standard input: wanted a picture, found: ") + std::strerror(errno));
    }
    bytes.insert(bytes.end(), block.begin(), block.begin() + got);
    if (bytes.size() > kMaxPictureFileBytes) {
      throw Error(ErrorKind::kBadData, "standard input: wanted at most " +
                                           std::to_string(kMaxPictureFileBytes) +
                                           " bytes, found more");
    }
  }
}

}  // namespace

Picture open_picture(const std::string& name) {
  if (name != "-") return read_picture(name);
  return decode_picture(read_standard_input(), "standard input");
}

std::vector<fs::path> sample_pictures() {
  const auto folder = find_shipped("samples", fs::path("tools") / "samples");
  if (!folder) {
    throw Error(ErrorKind::kMissingInput,
                "samples: wanted tools/samples near the program or in the current folder, found "
                "none; --data DIR takes other pictures");
  }
  std::vector<fs::path> pictures;
  for (const fs::directory_entry& entry : fs::directory_iterator(*folder)) {
    if (entry.path().extension() == ".png") pictures.push_back(entry.path());
  }
  std::ranges::sort(pictures);
  if (pictures.empty()) {
    throw Error(ErrorKind::kMissingInput,
                folder->string() + ": wanted sample pictures (*.png), found none");
  }
  return pictures;
}

std::size_t name_width(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 48;
  std::size_t width = 0;
  for (const std::string& name : names) width = std::max(width, name.size());
  return std::min(width, kMost);
}

std::size_t class_width(const Model& model) {
  constexpr std::size_t kMost = 32;
  std::size_t width = 0;
  for (const std::string& name : model.classes) width = std::max(width, name.size());
  return std::min(width, kMost);
}

}  // namespace offramp::cli
