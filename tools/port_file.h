// Tells a waiting script a bound address: the file appears whole or not at all.
#pragma once

#include <filesystem>
#include <string>

#include "tools/output.h"

namespace offramp::cli {

class PortFile {
 public:
  /// Throws Error{kCannotWrite}: before the node starts.
  explicit PortFile(std::filesystem::path path);
  ~PortFile();
  PortFile(const PortFile&) = delete;
  PortFile& operator=(const PortFile&) = delete;

  /// Throws Error{kCannotWrite}.
  void publish(const std::string& address);

 private:
  std::filesystem::path path_, draft_;
  OutputFile file_;
};

}  // namespace offramp::cli
