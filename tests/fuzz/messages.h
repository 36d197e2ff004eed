// Messages out of a fuzzer's bytes, for those that look at what messages do.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "net/message.h"

namespace offramp::fuzz {

/// Eats an input from its front; zeros after its end.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t first = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return first;
  }
  std::vector<std::uint8_t> take(std::size_t count) {
    const auto part = bytes_.first(std::min(count, bytes_.size()));
    bytes_ = bytes_.subspan(part.size());
    return {part.begin(), part.end()};
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

/// A number of a message, the bytes that differ from a plain one of this kind, items, a payload; so
/// that few bytes make a message. `plain` says whose model, cut and shape it begins with.
inline std::variant<Message, Malformed> message(Input& in, const Hello& plain,
                                                const DecodeLimits& limits) {
  Frames frames = encode(plain);
  std::vector<std::uint8_t>& header = frames.header;
  const auto put = [&](std::size_t offset, std::uint64_t value, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i)
      header[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
  };
  header[6] = in.byte();
  for (int changes = in.byte() % 8; changes > 0; --changes) {
    const std::size_t offset = in.byte() % kFixedHeaderBytes;
    header[offset] = in.byte();
  }
  const std::vector<std::uint8_t> items = in.take(in.byte() % 64);
  header.insert(header.end(), items.begin(), items.end());
  frames.payload = in.take(in.byte());
  put(8, header.size(), 2);
  if (header[6] == 3) {
    put(36, frames.payload.size(), 4);
    if (header[11] == 0) put(40, frames.payload.size(), 4);
    put(88, XXH3_64bits(frames.payload.data(), frames.payload.size()), 8);
  }
  return decode(header, frames.payload, limits);
}

}  // namespace offramp::fuzz
