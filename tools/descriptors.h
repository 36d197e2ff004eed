// How many files and sockets this process may have open.
#pragma once

namespace offramp::cli {

/// As many as the system lets it have: every connection needs some, and most systems start programs
/// with 1024. Where that fails, the limit stays. Throws Error{kSystem} where there can be hardly
/// any.
void raise_descriptor_limit();

}  // namespace offramp::cli
