// Labelled pictures on disk: CIFAR-10's binary layout, or a folder with one subfolder per class.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/picture.h"

namespace offramp {

/// Inheritance because two real layouts stand behind it. Reading is thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::size_t size() const = 0;
  /// Index into the model's classes.
  virtual int label(std::size_t index) const = 0;
  /// Something a person recognises: a file's path, or "test_batch.bin#17".
  virtual std::string name(std::size_t index) const = 0;
  /// Throws Error{kBadData}.
  virtual Picture picture(std::size_t index) const = 0;
};

/// Opens `dir`: `test_batch.bin` in it or in `dir`/cifar-10-batches-bin, else one subfolder per
/// class (subfolder names must be class names; order by name). Throws Error naming what was looked
/// for.
std::unique_ptr<Dataset> open_dataset(const std::filesystem::path& dir,
                                      const std::vector<std::string>& classes);

}  // namespace offramp
