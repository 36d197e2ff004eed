// A picture of any bytes is decoded and prepared, or refused with an Error of one line.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine/error.h"
#include "engine/picture.h"

namespace {

std::uint32_t crc32(const std::uint8_t* bytes, std::size_t size) {
  std::uint32_t crc = ~0u;
  for (std::size_t i = 0; i < size; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

// Rights the checksums of a PNG's chunks, which mutations break and the decoder would stop at.
void repair_png(std::vector<std::uint8_t>& file) {
  std::size_t at = 8;
  while (file.size() - at >= 12) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | file[at + i];
    if (length > file.size() - at - 12) return;
    const std::uint32_t crc = crc32(&file[at + 4], length + 4);
    for (std::size_t i = 0; i < 4; ++i) {
      file[at + 8 + length + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    at += 12 + length;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> file(data, data + size);
  if (size > 8 && file[0] == 0x89) repair_png(file);
  try {
    const offramp::Picture picture = offramp::decode_picture(file, "fuzz");
    std::array<float, 3 * 8 * 9> input;
    offramp::Preprocess how{.input = {3, 8, 9}};
    offramp::preprocess(picture, how, input.data());
    how.resize = offramp::Preprocess::Resize::kShorter;
    how.resize_to = 12;
    offramp::preprocess(picture, how, input.data());
    for (const float value : input) {
      if (!(value >= 0.0f && value <= 1.0f)) std::abort();
    }
  } catch (const offramp::Error& error) {
    if (error.kind() != offramp::ErrorKind::kBadData) std::abort();
    if (std::strchr(error.what(), '\n') != nullptr) std::abort();
  }
  return 0;
}
