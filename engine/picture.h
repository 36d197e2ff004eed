// From the bytes of a picture file to the network's input.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "engine/model.h"

namespace offramp {

/// 8-bit RGB, rows from the top: rgb[height][width][3].
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;
};

/// What decode_picture refuses before it allocates.
inline constexpr int kMaxPictureSide = 16384;
inline constexpr std::int64_t kMaxPicturePixels = 16 * 1024 * 1024;
inline constexpr std::uint64_t kMaxPictureFileBytes = 64 * 1024 * 1024;

/// Decodes JPEG, PNG or BMP with 8 bits a channel. `origin` names the source in errors.
/// Throws Error{kBadData}.
Picture decode_picture(std::span<const std::uint8_t> file, const std::string& origin);

/// Reads and decodes a file. Throws Error{kMissingInput} or Error{kBadData}.
Picture read_picture(const std::filesystem::path& path);

/// Bilinear resize with antialiasing, the same fixed-point arithmetic as Pillow's
/// Image.resize(..., BILINEAR), so that a network sees what it saw in training.
Picture resize(const Picture& picture, int width, int height);

/// Writes the network's input, float[height, width, 3], as `how` says.
void preprocess(const Picture& picture, const Preprocess& how, float* input);

}  // namespace offramp
