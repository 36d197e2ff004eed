// stb_image, fenced in: only JPEG, PNG and BMP from memory, within a budget of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace offramp {

/// Most memory stb_image may hold at any time during a decode: enough for a photo of 12 megapixels.
inline constexpr std::size_t kMaxDecodeBytes = 60 * 1024 * 1024;

struct DecodedPicture {
  struct Free {
    void operator()(std::uint8_t* p) const;
  };
  int width = 0;
  int height = 0;
  /// [height][width][3]; null when decoding failed. To be freed by the thread that decoded.
  std::unique_ptr<std::uint8_t[], Free> rgb;
  std::string failure;  ///< stb_image's reason then
};

/// Decodes to 8-bit RGB, alpha dropped. `file` must have passed check_picture
/// (engine/picture_check.h): stb_image 2.27 reads out of bounds on some files that check refuses.
DecodedPicture decode_with_stb(std::span<const std::uint8_t> file);

}  // namespace offramp
