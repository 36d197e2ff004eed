// From the bytes of a picture file to the network's input.
#pragma once

#include <array>
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

/// The network's input for each of the 256 values of each colour, and back.
class PixelTable {
 public:
  explicit PixelTable(const Preprocess& how);

  /// `input` gets a float for each byte of `rgb`, [height, width, 3].
  void normalise(std::span<const std::uint8_t> rgb, float* input) const;
  /// Finds the bytes that normalise() makes `input` of, bit for bit. False when there are none.
  [[nodiscard]] bool recover(std::span<const float> input, std::uint8_t* rgb) const;

 private:
  std::array<std::array<float, 256>, 3> value_;
  std::array<float, 3> mean_, std_;
};

/// Writes the network's input, float[height, width, 3], as `how` says.
void preprocess(const Picture& picture, const Preprocess& how, float* input);

}  // namespace offramp
