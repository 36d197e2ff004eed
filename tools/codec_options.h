// `--codec` and `--lz4`: how a tier writes the tensors that it hands on.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "net/tensor_codec.h"

namespace offramp::cli {

struct CodecOptions {
  std::string codec;
  bool lz4 = false;

  void add_to(CLI::App& app);
  bool given() const { return lz4 || !codec.empty(); }
  TensorFormat format() const;
  /// What to give another process so that it does the same.
  std::vector<std::string> arguments() const;
};

/// "u8", "u8 + lz4".
std::string to_string(const TensorFormat& format);

}  // namespace offramp::cli
