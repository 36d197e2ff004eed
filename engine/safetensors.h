// A strict reader of the safetensors format (weights/FORMAT.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace offramp {

/// Longest header accepted, in bytes.
inline constexpr std::uint64_t kMaxHeaderBytes = 1024 * 1024;

/// float32, row-major, borrowed from the file.
struct Tensor {
  std::vector<std::int64_t> shape;  ///< every dimension at least 1; empty for a scalar
  std::span<const float> data;
};

/// "[16, 3, 3, 3]"
std::string to_string(std::span<const std::int64_t> shape);

/// Contents of a file, by name in ascending byte order.
struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;
};

/// Checks everything FORMAT.md says about the container; the values of the data are not looked at.
/// `file` must be aligned for floats and outlive the result. Throws Error{kBadModel} that begins
/// with `origin`. Allocates in proportion to the header only.
Safetensors parse_safetensors(std::span<const std::uint8_t> file, const std::string& origin);

/// BLAKE2b-256 over metadata and tensors, `offramp.hash` left out (weights/FORMAT.md).
std::array<std::uint8_t, 32> content_hash(const Safetensors& contents);

}  // namespace offramp
