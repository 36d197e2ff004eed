// Ids, and writing; reading is in net/message_decode.cpp.
#include "net/message.h"

#include <sys/random.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/error.h"
#include "net/bytes.h"
#include "net/message_layout.h"

namespace offramp {
namespace {

using namespace wire;

void write(ByteWriter& out, const Fixed& f) {
  out.raw(kMagic);
  out.u8(f.major);
  out.u8(f.minor);
  out.u8(f.type);
  out.u8(f.flags);
  out.u16(f.header_bytes);
  out.u8(f.dtype);
  out.u8(f.codec);
  out.u8(f.ndim);
  out.u8(f.attempt);
  out.u8(f.hop);
  out.u8(f.cut);
  out.raw(f.request);
  out.u32(f.budget_us);
  out.u32(f.payload_bytes);
  out.u32(f.raw_bytes);
  out.u16(f.credit);
  out.u8(f.tier);
  out.u8(0);
  out.raw(f.model);
  for (const std::uint32_t side : f.dims) out.u32(side);
  out.u64(0);
  out.u64(f.checksum);
}

void set_shape(Fixed& f, const Shape& shape, DType dtype) {
  f.dtype = static_cast<std::uint8_t>(dtype);
  f.ndim = 4;
  f.dims = {1, static_cast<std::uint32_t>(shape.height), static_cast<std::uint32_t>(shape.width),
            static_cast<std::uint32_t>(shape.channels)};
}

// One overload for each message: fills the fixed part and appends the items.
struct Encoder {
  Fixed f;
  ByteWriter items;

  void begin_item(Item item, std::size_t size) {
    items.u8(static_cast<std::uint8_t>(item));
    items.u16(static_cast<std::uint16_t>(size));
  }

  Type operator()(const Hello& m) {
    f.request = make_request_id(m.session, 0);
    f.model = m.model;
    f.cut = m.cut;
    set_shape(f, m.shape, DType::kF32);
    return Type::kHello;
  }
  Type operator()(const Welcome& m) {
    f.request = make_request_id(m.session, 0);
    f.model = m.model;
    f.cut = m.cut;
    f.tier = static_cast<std::uint8_t>(m.tier);
    f.credit = m.window;
    set_shape(f, m.shape, DType::kF32);
    if (m.pictures) begin_item(Item::kPictures, 0);
    return Type::kWelcome;
  }
  Type operator()(const Handoff& m) {
    f.request = m.request;
    f.model = m.model;
    f.cut = m.cut;
    f.attempt = m.attempt;
    f.hop = m.hop;
    f.budget_us = m.budget_us;
    f.codec = static_cast<std::uint8_t>(m.tensor.codec);
    f.payload_bytes = static_cast<std::uint32_t>(m.tensor.payload.size());
    f.raw_bytes = m.tensor.raw_bytes;
    f.checksum = XXH3_64bits(m.tensor.payload.data(), m.tensor.payload.size());
    set_shape(f, m.tensor.shape, m.tensor.dtype);
    return Type::kInfer;
  }
  Type operator()(const Verdict& m) {
    f.request = m.request;
    f.tier = static_cast<std::uint8_t>(m.tier);
    begin_item(Item::kDecision, kDecisionBytes);
    items.i32(m.decision.label);
    items.f32(m.decision.probability);
    items.f32(m.decision.entropy);
    items.i32(m.decision.exit);
    items.u8(static_cast<std::uint8_t>(m.degraded));
    for (const Hop& hop : m.hops) {
      begin_item(Item::kHop, kHopBytes);
      items.u8(static_cast<std::uint8_t>(hop.tier));
      items.u32(hop.queue_us);
      items.u32(hop.compute_us);
      items.u32(hop.wait_us);
      items.u32(hop.sent_bytes);
    }
    if (!m.probabilities.empty() && m.probabilities.size() <= kMaxWireClasses) {
      begin_item(Item::kProbabilities, 4 * m.probabilities.size());
      for (const float p : m.probabilities) items.f32(p);
    }
    return Type::kResult;
  }
  Type operator()(const Fault& m) {
    f.request = m.request;
    f.model = m.model;
    begin_item(Item::kFault, kFaultBytes);
    items.u16(static_cast<std::uint16_t>(m.code));
    const std::size_t size = std::min(m.text.size(), kMaxTextBytes);
    begin_item(Item::kText, size);
    for (std::size_t i = 0; i < size; ++i) items.u8(static_cast<std::uint8_t>(m.text[i]));
    if (m.retry_after_us > 0) {
      begin_item(Item::kRetryAfter, kRetryAfterBytes);
      items.u32(m.retry_after_us);
    }
    return Type::kError;
  }
  Type operator()(const Credit& m) {
    f.credit = m.window;
    return Type::kCredit;
  }
  Type operator()(const Ping& m) {
    f.request = make_request_id(0, m.sequence);
    return Type::kPing;
  }
  Type operator()(const Pong& m) {
    f.request = make_request_id(0, m.sequence);
    begin_item(Item::kLoad, kLoadBytes);
    items.u32(m.queue_depth);
    items.u32(m.held_us);
    if (m.workers > 0) {
      begin_item(Item::kPace, kPaceBytes);
      items.u32(m.service_us);
      items.u16(m.workers);
    }
    return Type::kPong;
  }
  Type operator()(const Cancel& m) {
    f.request = m.request;
    return Type::kCancel;
  }
  Type operator()(const Drain&) { return Type::kDrain; }
  Type operator()(const Bye&) { return Type::kBye; }

  // Call after the message itself.
  std::vector<std::uint8_t> header(Type type) {
    const std::vector<std::uint8_t> written = items.take();
    f.type = static_cast<std::uint8_t>(type);
    f.header_bytes = static_cast<std::uint16_t>(kFixedHeaderBytes + written.size());
    ByteWriter out;
    out.reserve(kFixedHeaderBytes + written.size());
    write(out, f);
    out.raw(written);
    return out.take();
  }
};

}  // namespace

std::uint64_t random_session() {
  std::uint64_t session = 0;
  if (getrandom(&session, sizeof session, 0) != sizeof session)
    throw Error(ErrorKind::kSystem,
                std::string("random numbers: wanted 8 bytes, found: ") + std::strerror(errno));
  return session;
}

RequestId make_request_id(std::uint64_t session, std::uint64_t counter) {
  RequestId id{};
  for (std::size_t i = 0; i < 8; ++i) {
    id[i] = static_cast<std::uint8_t>(session >> (8 * i));
    id[8 + i] = static_cast<std::uint8_t>(counter >> (8 * i));
  }
  return id;
}

WireModelId wire_model_id(const ModelId& id) {
  WireModelId wire{};
  std::copy_n(id.begin(), wire.size(), wire.begin());
  return wire;
}

std::string short_id(const WireModelId& id) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < 8; ++i) {
    text.push_back(kDigits[id[i] >> 4]);
    text.push_back(kDigits[id[i] & 15]);
  }
  return text;
}

Frames encode(Message message) {
  Encoder encoder;
  const Type type = std::visit(encoder, std::as_const(message));
  Frames frames{.header = encoder.header(type), .payload = {}};
  if (Handoff* handoff = std::get_if<Handoff>(&message))
    frames.payload = std::move(handoff->tensor.payload);
  return frames;
}

std::vector<std::uint8_t> encode_header(const Handoff& handoff) {
  Encoder encoder;
  return encoder.header(encoder(handoff));
}

}  // namespace offramp
