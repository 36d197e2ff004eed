// Shapes, borrowed tensors and owned memory.
//
// Activations are float32 in channels-last order: [batch, height, width, channels], dense.
// PyTorch's [batch, channels, height, width] appears only at the borders (files, reference
// interpreter).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace offramp {

/// Size of one sample. A vector of F features is F x 1 x 1.
struct Shape {
  int channels = 0;
  int height = 1;
  int width = 1;

  std::size_t elements() const {
    return static_cast<std::size_t>(channels) * static_cast<std::size_t>(height) *
           static_cast<std::size_t>(width);
  }
  bool operator==(const Shape&) const = default;
};

/// "16x32x32", or "10" for a vector.
std::string to_string(const Shape& shape);

/// Borrowed, read-only activations of `batch` samples: float[batch, height, width, channels].
struct View {
  const float* data = nullptr;
  int batch = 0;
  Shape shape;

  std::size_t elements() const { return static_cast<std::size_t>(batch) * shape.elements(); }
  /// The samples [first, first + count).
  View slice(int first, int count) const {
    return {data + static_cast<std::size_t>(first) * shape.elements(), count, shape};
  }
};

/// Owned floats, aligned to a cache line, in huge pages where they fill some. Not initialised.
/// Move-only.
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;

  Buffer() = default;
  explicit Buffer(std::size_t floats);

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    std::size_t alignment;
    void operator()(float* p) const;
  };
  std::unique_ptr<float[], Free> data_{nullptr, Free{kAlignment}};
  std::size_t size_ = 0;
};

}  // namespace offramp
