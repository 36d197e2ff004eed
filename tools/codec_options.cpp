#include "tools/codec_options.h"

#include <optional>

#include "tools/options.h"

namespace offramp::cli {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel};

std::optional<DType> dtype_called(const std::string& name) {
  for (const DType dtype : kDTypes) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace

void CodecOptions::add_to(CLI::App& app) {
  app.add_option("--codec", codec,
                 "of tensors handed on: u8 with one scale for all, u8c\nwith one a channel [f32]")
      ->type_name("f32|f16|u8|u8c")
      ->check(one_of({"f32", "f16", "u8", "u8c"}));
  app.add_flag("--lz4", lz4, "pack them, where that makes them smaller");
}

TensorFormat CodecOptions::format() const {
  return {.dtype = dtype_called(codec).value_or(DType::kF32),
          .codec = lz4 ? Codec::kLz4 : Codec::kRaw};
}

std::vector<std::string> CodecOptions::arguments() const {
  std::vector<std::string> arguments;
  if (!codec.empty()) arguments.push_back("--codec=" + codec);
  if (lz4) arguments.emplace_back("--lz4");
  return arguments;
}

std::string to_string(const TensorFormat& format) {
  return std::string(dtype_name(format.dtype)) + (format.codec == Codec::kLz4 ? " + lz4" : "");
}

}  // namespace offramp::cli
