// Strict checks of JPEG, PNG and BMP files before stb_image sees them.
//
// stb_image 2.27 trusts Huffman tables, palettes and offsets that a file made by hand can point
// anywhere. These checks walk the structure of the file (never its compressed data), and whatever
// they accept, stb_image reads the same way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/error.h"

namespace offramp {

struct PictureSize {
  int width = 0;
  int height = 0;
};

/// Size of a picture that is JPEG, PNG or BMP, has 8 bits a channel or less, respects the limits of
/// engine/picture.h, is whole, and is not implausibly short for its size. Allocates nothing in
/// proportion to it. Throws Error{kBadData} that begins with `origin`.
PictureSize check_picture(std::span<const std::uint8_t> file, const std::string& origin);

/// Error{kBadData} "ORIGIN: wanted WANTED, found FOUND".
Error bad_data(std::string_view origin, std::string_view wanted, std::string_view found);

/// Reads a file's fields in order; throws Error{kBadData} "truncated" at its end.
class PictureReader {
 public:
  PictureReader(std::span<const std::uint8_t> bytes, std::string_view origin)
      : bytes_(bytes), origin_(origin) {}

  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size() - position_; }
  std::uint8_t u8() { return take(1)[0]; }
  std::uint32_t big(std::size_t count);     ///< big-endian number of `count` <= 4 bytes
  std::uint32_t little(std::size_t count);  ///< little-endian number of `count` <= 4 bytes
  std::span<const std::uint8_t> take(std::size_t count);

 private:
  std::span<const std::uint8_t> bytes_;
  std::string_view origin_;
  std::size_t position_ = 0;
};

/// Throws Error{kBadData} when a side or the number of pixels is 0 or above the limits.
PictureSize checked_size(std::int64_t width, std::int64_t height, std::string_view origin);

/// The part for JPEG (engine/jpeg_check.cpp).
PictureSize check_jpeg(std::span<const std::uint8_t> file, std::string_view origin);

}  // namespace offramp
