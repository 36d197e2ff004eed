// Files for tests: a folder that removes itself, models with a correct hash, tiny pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"
#include "engine/picture.h"

namespace offramp::testing {

using Bytes = std::vector<std::uint8_t>;

/// A fresh folder, removed with all its contents at the end of the scope.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::filesystem::path& path() const { return path_; }
  /// Writes a file, making folders on the way, and returns its path.
  std::filesystem::path write(const std::string& name, std::span<const std::uint8_t> bytes) const;
  std::filesystem::path write(const std::string& name, std::string_view text) const;

 private:
  std::filesystem::path path_;
};

struct TestTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> data;
};

/// What goes into a model file.
struct TestModel {
  std::map<std::string, std::string> metadata;
  std::map<std::string, TestTensor> tensors;

  /// A safetensors file of metadata and tensors, with nothing added.
  Bytes file() const;
  /// The same with the right `offramp.hash`.
  Bytes signed_file() const;
};

/// A valid model of 3x4x4 inputs, classes "cat", "dog", "owl" and two exits, "first" at threshold
/// 0.5 and "last". It has a convolution, batch norm, ReLU, pooling and linear layers.
TestModel small_model();

/// Joins a header and data to a safetensors file, whatever they contain; pads the header to 8
/// bytes.
Bytes safetensors_file(std::string header, std::span<const std::uint8_t> data);

/// One chunk of a PNG with its length and checksum.
Bytes png_chunk(const std::string& type, std::span<const std::uint8_t> data);

/// An 8-bit RGB PNG (without compression) of a picture with at most 65,534 bytes of rows.
Bytes encode_png(const Picture& picture);

/// Bytes from a fixed linear congruential generator.
Picture random_picture(int width, int height, std::uint32_t seed);

/// What `call` throws, or fails the test when it throws no Error.
template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("wanted an Error, found none");
}

/// "00ff": two digits a byte.
std::string hex(std::span<const std::uint8_t> bytes);

}  // namespace offramp::testing
