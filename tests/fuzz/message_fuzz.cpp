// Arbitrary frames: decode() neither crashes nor over-reads, and what it accepts it would write
// again with the same meaning.
//
// Input: a little-endian u16 with the header's length, the header, the payload.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <variant>

#include "net/message.h"
#include "net/tensor_codec.h"

using namespace offramp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::span<const std::uint8_t> input(data + 2, size - 2);
  const auto announced = static_cast<std::size_t>(data[0] + 256 * data[1]);
  const std::size_t header_bytes = std::min(input.size(), announced);
  const DecodeLimits limits{.max_payload_bytes = 4096, .max_classes = 100, .max_exits = 4};
  auto first = decode(input.first(header_bytes), input.subspan(header_bytes), limits);
  auto* message = std::get_if<Message>(&first);
  if (message == nullptr) return 0;
  if (const auto* handoff = std::get_if<Handoff>(message)) {
    const Shape shape{.channels = 4, .height = 2, .width = 2};
    std::vector<float> out(shape.elements());
    static_cast<void>(decode_tensor(handoff->tensor, shape, out));
  }
  const Frames frames = encode(*message);
  auto second = decode(frames.header, frames.payload, limits);
  auto* again = std::get_if<Message>(&second);
  if (again == nullptr || again->index() != message->index()) std::abort();
  const Frames repeated = encode(*again);
  if (repeated.header != frames.header || repeated.payload != frames.payload) std::abort();
  return 0;
}
