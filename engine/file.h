// Whole files in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace offramp {

/// More than any model or data set has.
inline constexpr std::size_t kMaxFileBytes = std::size_t{2} << 30;

/// A regular file as it is now: read and not mapped, so that a file that is overwritten or cut
/// short while it is used changes nothing and kills nobody. Throws Error{kMissingInput} when there
/// is no such file, it may not be read, or it is a folder or a device; Error{kBadData} when it has
/// more than `most` bytes.
std::vector<std::uint8_t> read_file(const std::filesystem::path& path,
                                    std::size_t most = kMaxFileBytes);

}  // namespace offramp
