#include "engine/tensor.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <new>

namespace offramp {

std::string to_string(const Shape& shape) {
  std::string text = std::to_string(shape.channels);
  if (shape.height != 1 || shape.width != 1) {
    text += "x" + std::to_string(shape.height) + "x" + std::to_string(shape.width);
  }
  return text;
}

// Weights of some MiB are read once a run, and fetched ahead: with small pages, looking up their
// addresses takes as long as reading them. No more than fills whole huge pages is asked for, so
// that small networks stay small; where the system has none to give, nothing is lost.
Buffer::Buffer(std::size_t floats) : size_(floats) {
  constexpr std::size_t kHugePage = 2u << 20;
  const std::size_t bytes = floats * sizeof(float);
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  auto* const p = static_cast<float*>(::operator new[](bytes, std::align_val_t{alignment}));
  data_ = std::unique_ptr<float[], Free>(p, Free{alignment});
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

void Buffer::Free::operator()(float* p) const {
  ::operator delete[](p, std::align_val_t{alignment});
}

}  // namespace offramp
