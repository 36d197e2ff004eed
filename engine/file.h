// Whole files in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "engine/error.h"

namespace offramp {

/// The largest file of weights or of a data set that is read.
inline constexpr std::size_t kMaxFileBytes = std::size_t{2} << 30;

/// A regular file as it is now: read and not mapped, so that a file that is overwritten or cut
/// short while it is used changes nothing and kills nobody. Throws Error{kMissingInput} when there
/// is no such file, it may not be read, or it is a folder or a device; Error{too_large} when it has
/// more than `most` bytes.
std::vector<std::uint8_t> read_file(const std::filesystem::path& path,
                                    std::size_t most = kMaxFileBytes,
                                    ErrorKind too_large = ErrorKind::kBadData);

}  // namespace offramp
