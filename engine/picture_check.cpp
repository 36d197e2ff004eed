#include "engine/picture_check.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "engine/picture.h"

namespace offramp {
namespace {

constexpr std::array<std::uint8_t, 8> kPngSignature{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

bool starts_with(std::span<const std::uint8_t> file, std::string_view prefix) {
  return file.size() >= prefix.size() &&
         std::memcmp(file.data(), prefix.data(), prefix.size()) == 0;
}

// For "found ...": common formats by name, anything else by its first bytes.
std::string what_is(std::span<const std::uint8_t> file) {
  if (file.empty()) return "an empty file";
  if (starts_with(file, "GIF8")) return "GIF";
  if (starts_with(file, "RIFF") &&
      starts_with(file.subspan(std::min<std::size_t>(8, file.size())), "WEBP")) {
    return "WebP";
  }
  if (starts_with(file, std::string_view("II*\0", 4)) ||
      starts_with(file, std::string_view("MM\0*", 4))) {
    return "TIFF";
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "a file that begins with";
  for (const std::uint8_t byte : file.first(std::min<std::size_t>(4, file.size()))) {
    text += std::string(" ") + kDigits[byte >> 4] + kDigits[byte & 15];
  }
  return text;
}

// CRC-32 of ISO 3309, as PNG's chunks carry it.
std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0u);
      table[i] = value;
    }
    return table;
  }();
  std::uint32_t crc = 0xffffffffu;
  for (const std::uint8_t byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ byte) & 0xff];
  return ~crc;
}

struct PngHeader {
  PictureSize size;
  int color = 0;
  std::uint64_t raw_bytes = 0;  ///< of the decompressed rows, one filter byte each
};

PngHeader read_ihdr(std::span<const std::uint8_t> data, std::string_view origin) {
  if (data.size() != 13) {
    throw bad_data(origin, "a PNG header of 13 bytes", std::to_string(data.size()));
  }
  PictureReader reader(data, origin);
  PngHeader header;
  const std::int64_t width = reader.big(4), height = reader.big(4);
  const int depth = reader.u8();
  header.color = reader.u8();
  if (depth == 16) throw bad_data(origin, "8 bits a channel", "16");
  const bool small = depth == 1 || depth == 2 || depth == 4;
  const bool grey_or_palette = header.color == 0 || header.color == 3;
  const bool known = grey_or_palette || header.color == 2 || header.color == 4 || header.color == 6;
  if (!known || !(depth == 8 || (small && grey_or_palette))) {
    throw bad_data(origin, "a colour type and depth of PNG",
                   "type " + std::to_string(header.color) + ", depth " + std::to_string(depth));
  }
  if (reader.u8() != 0 || reader.u8() != 0 || reader.u8() > 1) {
    throw bad_data(origin, "a PNG of compression 0, filter 0 and interlace 0 or 1", "others");
  }
  header.size = checked_size(width, height, origin);
  const int channels = header.color == 2 ? 3 : header.color == 6 ? 4 : header.color == 4 ? 2 : 1;
  header.raw_bytes = static_cast<std::uint64_t>(height) *
                     (1 + (static_cast<std::uint64_t>(width * channels * depth) + 7) / 8);
  return header;
}

PictureSize check_png(std::span<const std::uint8_t> file, std::string_view origin) {
  PictureReader reader(file, origin);
  reader.take(kPngSignature.size());
  PngHeader header;
  bool palette = false;
  std::uint64_t data_bytes = 0;
  for (bool first = true;; first = false) {
    const std::uint32_t length = reader.big(4);
    // The type belongs to what the CRC covers.
    if (reader.left() < 8 || length > reader.left() - 8) {
      throw bad_data(origin, "a whole PNG", "a truncated one");
    }
    const auto covered = reader.take(4 + std::size_t{length});
    const auto data = covered.subspan(4);
    if (reader.big(4) != crc32(covered)) {
      throw bad_data(origin, "a PNG with right checksums", "a damaged chunk");
    }
    const std::string_view type(reinterpret_cast<const char*>(covered.data()), 4);
    if (first != (type == "IHDR"))
      throw bad_data(origin, "one IHDR at the start of a PNG", "other");
    if (first) {
      header = read_ihdr(data, origin);
    } else if (type == "PLTE") {
      palette = true;
      if (data.empty() || data.size() > 768 || data.size() % 3 != 0 || data_bytes != 0) {
        throw bad_data(origin, "a palette of 1 to 256 colours before the data", "other");
      }
    } else if (type == "IDAT") {
      data_bytes += length;
    } else if (type == "IEND") {
      break;
    } else if ((covered[0] & 0x20) == 0) {  // upper case: a chunk that must be understood
      throw bad_data(origin, "a standard PNG", "an unknown critical chunk");
    }
  }
  if (header.color == 3 && !palette) throw bad_data(origin, "a PNG with its palette", "none");
  // Deflate's best is 258 bytes from two bits, 1032 : 1; the constant spares tiny pictures.
  constexpr std::uint64_t kDeflateRatio = 1032;
  if (header.raw_bytes > kDeflateRatio * data_bytes + 1024) {
    throw bad_data(origin, "data for " + std::to_string(header.raw_bytes) + " bytes of pixels",
                   std::to_string(data_bytes) + " compressed bytes, too few to hold them");
  }
  return header.size;
}

PictureSize check_bmp(std::span<const std::uint8_t> file, std::string_view origin) {
  PictureReader reader(file, origin);
  reader.take(10);  // "BM", file size, reserved
  const std::uint64_t offset = reader.little(4);
  const std::uint32_t header = reader.little(4);
  if (header != 40 && header != 108 && header != 124) {
    throw bad_data(origin, "a BMP header of 40, 108 or 124 bytes", std::to_string(header));
  }
  const auto width = static_cast<std::int32_t>(reader.little(4));
  const auto height = static_cast<std::int32_t>(reader.little(4));
  const std::uint32_t planes = reader.little(2), bits = reader.little(2);
  const std::uint32_t compression = reader.little(4);
  const bool depth_known =
      bits == 1 || bits == 4 || bits == 8 || bits == 16 || bits == 24 || bits == 32;
  const bool packed = compression == 3 && (bits == 16 || bits == 32);
  if (planes != 1 || !depth_known || (compression != 0 && !packed)) {
    throw bad_data(origin, "an uncompressed BMP of 1 to 32 bits",
                   std::to_string(bits) + " bits, compression " + std::to_string(compression));
  }
  // Negative heights mean rows from the top.
  const PictureSize size = checked_size(width, std::abs(std::int64_t{height}), origin);
  const std::uint64_t stride = (static_cast<std::uint64_t>(size.width) * bits + 31) / 32 * 4;
  const std::uint64_t wanted = offset + stride * static_cast<std::uint64_t>(size.height);
  if (offset < 14 + std::uint64_t{header} || wanted > file.size()) {
    throw bad_data(origin, "a whole BMP of " + std::to_string(wanted) + " bytes",
                   std::to_string(file.size()) + ", pixels at byte " + std::to_string(offset));
  }
  return size;
}

}  // namespace

Error bad_data(std::string_view origin, std::string_view wanted, std::string_view found) {
  return Error(ErrorKind::kBadData, std::string(origin) + ": wanted " + std::string(wanted) +
                                        ", found " + std::string(found));
}

std::uint32_t PictureReader::big(std::size_t count) {
  std::uint32_t value = 0;
  for (const std::uint8_t byte : take(count)) value = value << 8 | byte;
  return value;
}

std::uint32_t PictureReader::little(std::size_t count) {
  std::uint32_t value = 0;
  const auto bytes = take(count);
  for (std::size_t i = count; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

std::span<const std::uint8_t> PictureReader::take(std::size_t count) {
  if (count > left()) throw bad_data(origin_, "a whole picture", "a truncated one");
  position_ += count;
  return bytes_.subspan(position_ - count, count);
}

PictureSize checked_size(std::int64_t width, std::int64_t height, std::string_view origin) {
  if (width < 1 || height < 1 || width > kMaxPictureSide || height > kMaxPictureSide ||
      width * height > kMaxPicturePixels) {
    throw bad_data(origin,
                   "sides of 1 to " + std::to_string(kMaxPictureSide) + " and at most " +
                       std::to_string(kMaxPicturePixels) + " pixels",
                   std::to_string(width) + " x " + std::to_string(height));
  }
  return {static_cast<int>(width), static_cast<int>(height)};
}

PictureSize check_picture(std::span<const std::uint8_t> file, const std::string& origin) {
  if (file.size() > kMaxPictureFileBytes) {
    throw bad_data(origin, "at most " + std::to_string(kMaxPictureFileBytes) + " bytes",
                   std::to_string(file.size()));
  }
  if (starts_with(file, "\xff\xd8\xff")) return check_jpeg(file, origin);
  if (starts_with(file, {reinterpret_cast<const char*>(kPngSignature.data()), 8})) {
    return check_png(file, origin);
  }
  if (starts_with(file, "BM")) return check_bmp(file, origin);
  throw bad_data(origin, "JPEG, PNG or BMP", what_is(file));
}

}  // namespace offramp
