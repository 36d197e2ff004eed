#include "tools/pictures.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "tools/options.h"

namespace offramp::cli {
namespace {

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

bool has_picture_name(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  constexpr std::array<std::string_view, 4> kExtensions{".bmp", ".jpeg", ".jpg", ".png"};
  return std::ranges::find(kExtensions, extension) != kExtensions.end();
}

std::vector<std::string> pictures_in(const std::filesystem::path& folder) {
  std::vector<std::string> pictures;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (has_picture_name(entry.path())) pictures.push_back(entry.path().string());
  if (pictures.empty()) {
    throw Error(ErrorKind::kMissingInput,
                folder.string() + ": wanted pictures (*.png, *.jpg, *.jpeg, *.bmp), found " +
                    (error ? error.message() : "none"));
  }
  std::ranges::sort(pictures);
  return pictures;
}

}  // namespace

Picture open_picture(const std::string& name) {
  if (name != "-") return read_picture(name);
  return decode_picture(read_standard_input(), "standard input");
}

std::vector<std::string> sample_pictures() {
  const auto folder = find_shipped("samples", std::filesystem::path("tools") / "samples");
  if (!folder) {
    throw Error(ErrorKind::kMissingInput,
                "samples: wanted tools/samples near the program or in the current folder, found "
                "none; --data DIR takes other pictures");
  }
  return with_folders_opened({folder->string()});
}

std::vector<std::string> with_folders_opened(const std::vector<std::string>& names) {
  std::vector<std::string> opened;
  for (const std::string& name : names) {
    std::error_code no_folder;
    if (std::filesystem::is_directory(name, no_folder)) {
      for (std::string& picture : pictures_in(name)) opened.push_back(std::move(picture));
    } else {
      opened.push_back(name);
    }
  }
  return opened;
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
