// Arbitrary frames: decode() neither crashes nor over-reads, what it accepts it would write again
// with the same meaning, and a tensor in it is decoded or refused.
//
// Input: a little-endian u16 with the header's length, the header, the payload. Tried as it is, and
// with magic, version, lengths and checksum put right, so that what stands behind them is reached.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <variant>
#include <vector>

#include "net/message.h"
#include "net/tensor_codec.h"

using namespace offramp;

namespace {

using Bytes = std::vector<std::uint8_t>;

void put(Bytes& header, std::size_t offset, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    header[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
}

// The offsets of net/WIRE.md.
void repair(Bytes& header, std::span<const std::uint8_t> payload) {
  if (header.size() < kFixedHeaderBytes) return;
  put(header, 0, 0x5052464f, 4);
  header[kMajorOffset] = kWireMajor;
  header[7] = 0;
  put(header, 8, header.size(), 2);
  put(header, 36, payload.size(), 4);
  if (header[11] == static_cast<std::uint8_t>(Codec::kRaw)) put(header, 40, payload.size(), 4);
  put(header, 88, XXH3_64bits(payload.data(), payload.size()), 8);
}

void decode_twice(std::span<const std::uint8_t> header, std::span<const std::uint8_t> payload) {
  const DecodeLimits limits{.max_payload_bytes = 4096, .max_classes = 100, .max_exits = 4};
  auto first = decode(header, payload, limits);
  auto* message = std::get_if<Message>(&first);
  if (message == nullptr) return;
  if (const auto* handoff = std::get_if<Handoff>(message)) {
    const Shape shape{.channels = 4, .height = 2, .width = 2};
    std::vector<float> out(shape.elements());
    if (!decode_tensor(handoff->tensor, shape, out) &&
        !std::ranges::all_of(out, [](float v) { return std::isfinite(v); }))
      std::abort();
  }
  const Frames frames = encode(*message);
  auto second = decode(frames.header, frames.payload, limits);
  auto* again = std::get_if<Message>(&second);
  if (again == nullptr || again->index() != message->index()) std::abort();
  const Frames repeated = encode(*again);
  if (repeated.header != frames.header || repeated.payload != frames.payload) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::span<const std::uint8_t> input(data + 2, size - 2);
  const auto announced = static_cast<std::size_t>(data[0] + 256 * data[1]);
  const std::size_t header_bytes = std::min(input.size(), announced);
  Bytes header(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(header_bytes));
  const std::span<const std::uint8_t> payload = input.subspan(header_bytes);
  decode_twice(header, payload);
  repair(header, payload);
  decode_twice(header, payload);
  return 0;
}
