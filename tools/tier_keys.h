// Folders of keys for a device, an edge and a cloud that are to work together.
#pragma once

#include <filesystem>

#include "net/zmq_channel.h"

namespace offramp::cli {

/// Makes what is missing of `root`/device, `root`/edge and `root`/cloud, as --keys reads them: a
/// key pair for each, the public key of the tier after it, and a list that lets in the tier before
/// it. What is there stays as it is. Throws Error{kBadKeys} when that does not fit together,
/// Error{kCannotWrite}, and what reading keys throws.
void make_tier_keys(const std::filesystem::path& root);

/// What a client with the keys in `folder` locks its link with. Throws what reading them throws.
LinkKeys read_link_keys(const std::filesystem::path& folder);

}  // namespace offramp::cli
