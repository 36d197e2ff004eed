#include "engine/tensor.h"

#include <new>

namespace offramp {

std::string to_string(const Shape& shape) {
  std::string text = std::to_string(shape.channels);
  if (shape.height != 1 || shape.width != 1) {
    text += "x" + std::to_string(shape.height) + "x" + std::to_string(shape.width);
  }
  return text;
}

Buffer::Buffer(std::size_t floats)
    : data_(static_cast<float*>(
          ::operator new[](floats * sizeof(float), std::align_val_t{kAlignment}))),
      size_(floats) {}

void Buffer::Free::operator()(float* p) const {
  ::operator delete[](p, std::align_val_t{kAlignment});
}

}  // namespace offramp
