// Reading of messages. Nothing here trusts a byte.
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "net/bytes.h"
#include "net/message.h"
#include "net/message_layout.h"

namespace offramp {
namespace {

using namespace wire;

template <std::size_t N>
void read(ByteReader& in, std::array<std::uint8_t, N>& out) {
  const auto bytes = in.raw(N);
  std::copy(bytes.begin(), bytes.end(), out.begin());
}

// The magic has been read.
Fixed read_fixed(ByteReader& in) {
  Fixed f;
  f.major = in.u8();
  f.minor = in.u8();
  f.type = in.u8();
  f.flags = in.u8();
  f.header_bytes = in.u16();
  f.dtype = in.u8();
  f.codec = in.u8();
  f.ndim = in.u8();
  f.attempt = in.u8();
  f.hop = in.u8();
  f.cut = in.u8();
  read(in, f.request);
  f.budget_us = in.u32();
  f.payload_bytes = in.u32();
  f.raw_bytes = in.u32();
  f.credit = in.u16();
  f.tier = in.u8();
  in.u8();
  read(in, f.model);
  for (std::uint32_t& side : f.dims) side = in.u32();
  in.raw(8);
  f.checksum = in.u64();
  return f;
}

std::optional<Shape> get_shape(const Fixed& f) {
  if (f.ndim != 4 || f.dims[0] != 1) return {};
  for (const std::uint32_t side : f.dims)
    if (side == 0 || side > kMaxSide) return {};
  return Shape{.channels = static_cast<int>(f.dims[3]),
               .height = static_cast<int>(f.dims[1]),
               .width = static_cast<int>(f.dims[2])};
}

std::uint64_t first_half(const RequestId& id) { return ByteReader(id).u64(); }
std::uint64_t second_half(const RequestId& id) {
  return ByteReader(std::span<const std::uint8_t>(id).subspan(8)).u64();
}

bool is_tier(std::uint8_t v) { return v <= static_cast<std::uint8_t>(Tier::kCloud); }

// What the items of a header say. Items that this version does not know and need not understand are
// skipped.
struct Items {
  std::optional<std::string> text;
  std::optional<std::vector<float>> probabilities;
  std::vector<Hop> hops;
  std::optional<Pong> load;  ///< queue_depth and held_us
  std::optional<Pong> pace;  ///< service_us and workers
  std::optional<std::uint32_t> retry_after_us;
  bool pictures = false;
  std::optional<Verdict> decision;
  std::optional<FaultCode> fault;
};

std::optional<Malformed> read_item(Item item, std::span<const std::uint8_t> value,
                                   const DecodeLimits& limits, Items& out) {
  ByteReader in(value);
  switch (item) {
    case Item::kText:
      if (out.text || value.size() > kMaxTextBytes) return Malformed::kItem;
      out.text.emplace();
      // For a log line: what is not printable ASCII becomes a question mark.
      for (const std::uint8_t c : value)
        out.text->push_back(c >= 0x20 && c < 0x7f ? static_cast<char>(c) : '?');
      return {};
    case Item::kProbabilities:
      if (out.probabilities || value.size() % 4 != 0 || value.size() / 4 > limits.max_classes)
        return Malformed::kItem;
      out.probabilities.emplace(value.size() / 4);
      for (float& p : *out.probabilities) {
        p = in.f32();
        if (!std::isfinite(p)) return Malformed::kField;
      }
      return {};
    case Item::kHop: {
      if (value.size() != kHopBytes || out.hops.size() == kMaxHops) return Malformed::kItem;
      const std::uint8_t tier = in.u8();
      if (!is_tier(tier)) return Malformed::kField;
      Hop hop{.tier = static_cast<Tier>(tier)};
      hop.queue_us = in.u32();
      hop.compute_us = in.u32();
      hop.wait_us = in.u32();
      hop.sent_bytes = in.u32();
      out.hops.push_back(hop);
      return {};
    }
    case Item::kLoad:
      if (out.load || value.size() != kLoadBytes) return Malformed::kItem;
      out.load.emplace();
      out.load->queue_depth = in.u32();
      out.load->held_us = in.u32();
      return {};
    case Item::kPace:
      if (out.pace || value.size() != kPaceBytes) return Malformed::kItem;
      out.pace.emplace();
      out.pace->service_us = in.u32();
      out.pace->workers = in.u16();
      return {};
    case Item::kRetryAfter:
      if (out.retry_after_us || value.size() != kRetryAfterBytes) return Malformed::kItem;
      out.retry_after_us = in.u32();
      return {};
    case Item::kPictures:
      if (out.pictures || !value.empty()) return Malformed::kItem;
      out.pictures = true;
      return {};
    case Item::kDecision: {
      if (out.decision || value.size() != kDecisionBytes) return Malformed::kItem;
      Decision d{.label = in.i32(), .probability = in.f32(), .entropy = in.f32(), .exit = in.i32()};
      const std::uint8_t reason = in.u8();
      if (d.label < 0 || static_cast<std::size_t>(d.label) >= limits.max_classes || d.exit < 0 ||
          d.exit >= limits.max_exits || !std::isfinite(d.probability) ||
          !std::isfinite(d.entropy) || reason > static_cast<std::uint8_t>(Reason::kRefused))
        return Malformed::kField;
      out.decision.emplace();
      out.decision->decision = d;
      out.decision->degraded = static_cast<Reason>(reason);
      return {};
    }
    case Item::kFault: {
      if (out.fault || value.size() != kFaultBytes) return Malformed::kItem;
      out.fault = static_cast<FaultCode>(in.u16());
      return {};
    }
  }
  return static_cast<std::uint8_t>(item) >= kMustUnderstand
             ? std::optional<Malformed>(Malformed::kUnknownItem)
             : std::nullopt;
}

std::optional<Malformed> read_items(ByteReader& in, const DecodeLimits& limits, Items& out) {
  while (in.left() > 0) {
    const std::uint8_t type = in.u8();
    const std::uint16_t size = in.u16();
    const auto value = in.raw(size);
    if (!in.ok()) return Malformed::kItem;
    if (const auto bad = read_item(static_cast<Item>(type), value, limits, out)) return bad;
  }
  return {};
}

using Decoded = std::variant<Message, Malformed>;

Decoded decode_infer(const Fixed& f, std::span<const std::uint8_t> payload,
                     const DecodeLimits& limits) {
  const std::optional<Shape> shape = get_shape(f);
  if (!shape || f.dtype == static_cast<std::uint8_t>(DType::kNone) ||
      f.dtype > static_cast<std::uint8_t>(DType::kPixels) ||
      f.codec > static_cast<std::uint8_t>(Codec::kLz4))
    return Malformed::kField;
  const bool packed = f.codec == static_cast<std::uint8_t>(Codec::kLz4);
  if (f.payload_bytes != payload.size() || f.raw_bytes > limits.max_payload_bytes ||
      (packed ? f.raw_bytes <= f.payload_bytes : f.raw_bytes != f.payload_bytes))
    return Malformed::kPayload;
  if (XXH3_64bits(payload.data(), payload.size()) != f.checksum) return Malformed::kChecksum;
  return Handoff{.request = f.request,
                 .model = f.model,
                 .cut = f.cut,
                 .attempt = f.attempt,
                 .hop = f.hop,
                 .budget_us = f.budget_us,
                 .tensor = {.dtype = static_cast<DType>(f.dtype),
                            .codec = static_cast<Codec>(f.codec),
                            .shape = *shape,
                            .raw_bytes = f.raw_bytes,
                            .payload = {payload.begin(), payload.end()}}};
}

Decoded decode_result(const Fixed& f, Items& items) {
  if (!items.decision) return Malformed::kItem;
  if (!is_tier(f.tier)) return Malformed::kField;
  Verdict verdict = std::move(*items.decision);
  verdict.request = f.request;
  verdict.tier = static_cast<Tier>(f.tier);
  verdict.hops = std::move(items.hops);
  if (items.probabilities) verdict.probabilities = std::move(*items.probabilities);
  return verdict;
}

Decoded decode_control(const Fixed& f, Items& items) {
  switch (static_cast<Type>(f.type)) {
    case Type::kHello:
    case Type::kWelcome: {
      const std::optional<Shape> shape = get_shape(f);
      if (!shape || f.dtype != static_cast<std::uint8_t>(DType::kF32)) return Malformed::kField;
      const std::uint64_t session = first_half(f.request);
      if (static_cast<Type>(f.type) == Type::kHello)
        return Hello{
            .session = session, .model = f.model, .cut = f.cut, .shape = *shape, .minor = f.minor};
      if (!is_tier(f.tier)) return Malformed::kField;
      return Welcome{.session = session,
                     .model = f.model,
                     .cut = f.cut,
                     .shape = *shape,
                     .tier = static_cast<Tier>(f.tier),
                     .window = f.credit,
                     .pictures = items.pictures,
                     .minor = f.minor};
    }
    case Type::kResult:
      return decode_result(f, items);
    case Type::kError:
      if (!items.fault) return Malformed::kItem;
      return Fault{.request = f.request,
                   .code = *items.fault,
                   .model = f.model,
                   .text = items.text.value_or(""),
                   .retry_after_us = items.retry_after_us.value_or(0)};
    case Type::kCredit:
      return Credit{.window = f.credit};
    case Type::kPing:
      return Ping{.sequence = second_half(f.request)};
    case Type::kPong: {
      Pong pong = items.load.value_or(Pong{});
      pong.sequence = second_half(f.request);
      if (items.pace) {
        pong.service_us = items.pace->service_us;
        pong.workers = items.pace->workers;
      }
      return pong;
    }
    case Type::kCancel:
      return Cancel{.request = f.request};
    case Type::kDrain:
      return Drain{};
    case Type::kBye:
      return Bye{};
    case Type::kInfer:
      break;
  }
  return Malformed::kType;
}

}  // namespace

std::variant<Message, Malformed> decode(std::span<const std::uint8_t> header,
                                        std::span<const std::uint8_t> payload,
                                        const DecodeLimits& limits) {
  if (header.size() < kFixedHeaderBytes) return Malformed::kTruncated;
  ByteReader in(header);
  if (!std::ranges::equal(in.raw(kMagic.size()), kMagic)) return Malformed::kMagic;
  const Fixed f = read_fixed(in);
  if (f.major != kWireMajor) return Malformed::kVersion;
  if (f.header_bytes != header.size()) return Malformed::kHeaderLength;
  if (f.flags != 0) return Malformed::kFlags;
  Items items;
  if (const auto bad = read_items(in, limits, items)) return *bad;
  if (static_cast<Type>(f.type) == Type::kInfer) return decode_infer(f, payload, limits);
  Decoded control = decode_control(f, items);
  if (!payload.empty() && std::holds_alternative<Message>(control)) return Malformed::kPayload;
  return control;
}

}  // namespace offramp
