#include "engine/picture.h"

#include <algorithm>
#include <array>

#include "engine/error.h"
#include "engine/file.h"
#include "engine/picture_check.h"
#include "engine/resize.h"
#include "engine/stb.h"

namespace offramp {
namespace {

// Python's round((size - crop) / 2): halves go to the even neighbour, as torchvision's CenterCrop.
int centre_offset(int size, int crop) {
  const int difference = size - crop;
  const int half = difference / 2;
  return difference % 2 == 0 ? half : half + half % 2;
}

// As torchvision's Resize(resize_to) then CenterCrop(input), for PIL pictures.
Picture resize_shorter(const Picture& picture, const Preprocess& how) {
  const std::int64_t shorter = std::min(picture.width, picture.height);
  const auto scaled = [&](int side) {
    return static_cast<int>(std::int64_t{how.resize_to} * side / shorter);
  };
  const int width = scaled(picture.width), height = scaled(picture.height);
  if (width < how.input.width || height < how.input.height) {
    throw bad_data("picture",
                   "at least " + std::to_string(how.input.width) + " x " +
                       std::to_string(how.input.height) + " once resized",
                   std::to_string(width) + " x " + std::to_string(height));
  }
  return resize_window(
      picture, width, height,
      {centre_offset(width, how.input.width), centre_offset(height, how.input.height),
       how.input.width, how.input.height});
}

}  // namespace

Picture decode_picture(std::span<const std::uint8_t> file, const std::string& origin) {
  const PictureSize size = check_picture(file, origin);
  const DecodedPicture decoded = decode_with_stb(file);
  if (decoded.rgb == nullptr) {
    throw bad_data(origin,
                   "a whole picture that decodes within " +
                       std::to_string(kMaxDecodeBytes / (1024 * 1024)) + " MiB",
                   decoded.failure);
  }
  if (decoded.width != size.width || decoded.height != size.height) {
    throw bad_data(origin, std::to_string(size.width) + " x " + std::to_string(size.height),
                   std::to_string(decoded.width) + " x " + std::to_string(decoded.height));
  }
  const std::size_t bytes =
      static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height) * 3;
  return {size.width, size.height, {decoded.rgb.get(), decoded.rgb.get() + bytes}};
}

Picture read_picture(const std::filesystem::path& path) {
  return decode_picture(read_file(path, kMaxPictureFileBytes), path.string());
}

// Three steps in float32, as torchvision's ToTensor and Normalize: other orders round differently.
PixelTable::PixelTable(const Preprocess& how) : mean_(how.mean), std_(how.std) {
  for (std::size_t c = 0; c < value_.size(); ++c) {
    for (std::size_t byte = 0; byte < value_[c].size(); ++byte)
      value_[c][byte] = (static_cast<float>(byte) / 255.0f - how.mean[c]) / how.std[c];
  }
}

void PixelTable::normalise(std::span<const std::uint8_t> rgb, float* input) const {
  for (std::size_t i = 0; i < rgb.size(); ++i) input[i] = value_[i % 3][rgb[i]];
}

bool PixelTable::recover(std::span<const float> input, std::uint8_t* rgb) const {
  for (std::size_t i = 0; i < input.size(); ++i) {
    const std::size_t c = i % 3;
    // NaN fails this comparison, too.
    const float byte = (input[i] * std_[c] + mean_[c]) * 255.0f;
    if (!(byte > -1.0f && byte < 256.0f)) return false;
    const auto nearest = static_cast<std::uint8_t>(std::clamp(byte + 0.5f, 0.0f, 255.0f));
    if (value_[c][nearest] != input[i]) return false;
    rgb[i] = nearest;
  }
  return true;
}

void preprocess(const Picture& picture, const Preprocess& how, float* input) {
  Picture resized;
  const Picture* used = &picture;
  if (how.resize == Preprocess::Resize::kShorter) {
    resized = resize_shorter(picture, how);
    used = &resized;
  } else if (picture.width != how.input.width || picture.height != how.input.height) {
    resized = resize(picture, how.input.width, how.input.height);
    used = &resized;
  }
  PixelTable(how).normalise(used->rgb, input);
}

}  // namespace offramp
