#include "tests/test_allocations.h"

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

thread_local std::uint64_t count = 0, bytes_asked = 0;

void* allocate(std::size_t size, std::size_t alignment) {
  ++count;
  bytes_asked += size;
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded)) return p;
  throw std::bad_alloc();
}

using Align = std::align_val_t;
constexpr std::size_t kDefault = alignof(std::max_align_t);
std::size_t bytes(Align alignment) { return static_cast<std::size_t>(alignment); }

}  // namespace

namespace offramp::test {

std::uint64_t allocations() { return count; }
std::uint64_t allocated_bytes() { return bytes_asked; }

}  // namespace offramp::test

// All forms, because a sanitizer brings its own of those that are missing and then finds new and
// delete of different kinds.

void* operator new(std::size_t n) { return allocate(n, kDefault); }
void* operator new[](std::size_t n) { return allocate(n, kDefault); }
void* operator new(std::size_t n, Align a) { return allocate(n, bytes(a)); }
void* operator new[](std::size_t n, Align a) { return allocate(n, bytes(a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return allocate(n, kDefault); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  return allocate(n, kDefault);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, Align) noexcept { std::free(p); }
void operator delete[](void* p, Align) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, Align) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, Align) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
