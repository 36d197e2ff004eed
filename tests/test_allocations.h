// Counts calls of operator new, to show that a hot path makes none.
#pragma once

#include <cstdint>

namespace offramp::test {

/// Allocations by this thread since it started.
std::uint64_t allocations();
/// Bytes that they were for.
std::uint64_t allocated_bytes();

}  // namespace offramp::test
