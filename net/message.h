// What crosses the wire, as structs and as bytes. The specification is net/WIRE.md.
//
// A message is two frames: a header (96 bytes, then type-length-value items) and a payload, which
// is empty for all but INFER. Decoding never throws, never reads past a frame and checks every
// length before it allocates.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/exits.h"
#include "engine/model.h"
#include "engine/tensor.h"

namespace offramp {

inline constexpr std::uint8_t kWireMajor = 1;
inline constexpr std::uint8_t kWireMinor = 2;
/// The first minor version with CREDIT and CANCEL; older peers take them for malformed.
inline constexpr std::uint8_t kMinorOfCredit = 2;
inline constexpr std::size_t kFixedHeaderBytes = 96;
inline constexpr std::size_t kMajorOffset = 4;         ///< where every version has its major number
inline constexpr std::size_t kMaxHeaderBytes = 65535;  ///< the header's length is a u16
inline constexpr std::size_t kMaxTextBytes = 512;      ///< of a Fault's text; longer ones are cut
inline constexpr std::size_t kMaxHops = 8;
/// More probabilities than these do not fit into a header; a Verdict then goes without.
inline constexpr std::size_t kMaxWireClasses = 16000;

/// Who answers. The numbers are those of the wire.
enum class Tier : std::uint8_t { kDevice = 0, kEdge = 1, kCloud = 2 };
const char* tier_name(Tier tier);  ///< "device", "edge", "cloud"

/// A session (u64, drawn at random), then a counter (u64), both little-endian.
using RequestId = std::array<std::uint8_t, 16>;
/// From the system's random source. Throws Error{kSystem}.
std::uint64_t random_session();
RequestId make_request_id(std::uint64_t session, std::uint64_t counter);

/// The first 16 bytes of a ModelId.
using WireModelId = std::array<std::uint8_t, 16>;
WireModelId wire_model_id(const ModelId& id);
std::string short_id(const WireModelId& id);  ///< equals short_id(ModelId)

/// Why an answer is not the one the whole cascade would have given.
enum class Reason : std::uint8_t {
  kNone = 0,           ///< it is: status OK
  kNoNext = 1,         ///< no next tier is configured
  kDisconnected = 2,   ///< the next tier is not connected
  kLate = 3,           ///< no answer came before the deadline
  kPeerLost = 4,       ///< the connection broke while the request was away
  kOverloaded = 5,     ///< the next tier's queue, or the window to it, was full
  kDraining = 6,       ///< the next tier is shutting down
  kModelMismatch = 7,  ///< the next tier runs another model
  kExpired = 8,        ///< the next tier got to it too late to be of use
  kRefused = 9,        ///< any other error of the next tier
};
inline constexpr std::size_t kReasonCount = static_cast<std::size_t>(Reason::kRefused) + 1;
const char* reason_name(Reason reason);  ///< "ok", "no next tier", "disconnected", ...

enum class FaultCode : std::uint16_t {
  kVersion = 1,        ///< major version not served; header of this message has the one that is
  kModelMismatch = 2,  ///< other model, or a cut or shape this node does not serve
  kNoSession = 3,      ///< say HELLO (again)
  kOverloaded = 4,
  kDraining = 5,
  kExpired = 6,    ///< the budget had run out when the work left the queue, or ran out later
  kBadTensor = 7,  ///< payload of a wrong size, or that is not finite numbers of its dtype
  kNoAnswer = 8,  ///< the last exit's entropy is not a number, or a strict tier has no whole answer
};
/// With one for 0, which no code has.
inline constexpr std::size_t kFaultCodeCount = static_cast<std::size_t>(FaultCode::kNoAnswer) + 1;
const char* fault_name(FaultCode code);  ///< "version", "model mismatch", ...
Reason reason_of(FaultCode code);        ///< how a tier that falls back on its own answer names it
FaultCode fault_of(Reason reason);       ///< how a tier that gives no answer says why

/// How a tensor's elements are written. kPixels is the picture as it was before it was normalised,
/// since version 1.2; it stands at cut 0 alone.
enum class DType : std::uint8_t {
  kNone = 0,
  kF32 = 1,
  kF16 = 2,
  kU8 = 3,
  kU8PerChannel = 4,
  kPixels = 5
};
inline constexpr std::size_t kDTypeCount = static_cast<std::size_t>(DType::kPixels) + 1;
const char* dtype_name(DType dtype);  ///< "f32", "f16", "u8", "u8c", "pixels"
/// How the payload is packed.
enum class Codec : std::uint8_t { kRaw = 0, kLz4 = 1 };
inline constexpr std::size_t kCodecCount = static_cast<std::size_t>(Codec::kLz4) + 1;

/// First message of a connection: I will hand you tensors of this model at this cut.
struct Hello {
  std::uint64_t session = 0;  ///< random
  WireModelId model{};
  std::uint8_t cut = 0;             ///< index of the stage that is to run next
  Shape shape;                      ///< of one sample at the cut
  std::uint8_t minor = kWireMinor;  ///< when read, the sender's; encode() always writes ours
  bool operator==(const Hello&) const = default;
};

/// Answer to Hello, which it repeats as far as it agrees.
struct Welcome {
  std::uint64_t session = 0;
  WireModelId model{};
  std::uint8_t cut = 0;
  Shape shape;
  Tier tier = Tier::kEdge;
  std::uint16_t window = 0;         ///< requests that may be away at once
  bool pictures = false;            ///< cut 0 is taken as well, as kPixels
  std::uint8_t minor = kWireMinor;  ///< as in Hello
  bool operator==(const Welcome&) const = default;
};

/// One sample as it crosses; net/tensor_codec.h writes and reads it.
struct WireTensor {
  DType dtype = DType::kF32;
  Codec codec = Codec::kRaw;
  Shape shape;                  ///< the wire says [1, height, width, channels]
  std::uint32_t raw_bytes = 0;  ///< of the payload once unpacked
  std::vector<std::uint8_t> payload{};
  bool operator==(const WireTensor&) const = default;
};

/// INFER: one undecided sample.
struct Handoff {
  RequestId request{};
  WireModelId model{};
  std::uint8_t cut = 0;
  std::uint8_t attempt = 0;
  std::uint8_t hop = 0;         ///< links passed before this one
  std::uint32_t budget_us = 0;  ///< what is left: the answer must leave the receiver within it
  WireTensor tensor{};
  bool operator==(const Handoff&) const = default;
};

/// What a request cost at one tier. Times of a later tier are inside wait_us of the one before it.
struct Hop {
  Tier tier = Tier::kDevice;
  std::uint32_t queue_us = 0;    ///< from arrival to a worker
  std::uint32_t compute_us = 0;  ///< in stages
  std::uint32_t wait_us = 0;     ///< for the next tier's answer; 0 when none was asked
  std::uint32_t sent_bytes = 0;  ///< handed to the next tier, both frames
  bool operator==(const Hop&) const = default;
};
/// In all: queue, stages and waiting for the tier after it.
inline std::uint64_t time_at_us(const Hop& hop) {
  return std::uint64_t{hop.queue_us} + hop.compute_us + hop.wait_us;
}

/// RESULT: an answer.
struct Verdict {
  RequestId request{};
  Decision decision;  ///< exactly the bits the answering stage computed
  Tier tier = Tier::kEdge;
  Reason degraded = Reason::kNone;
  std::vector<Hop> hops{};             ///< nearest tier first, at most kMaxHops
  std::vector<float> probabilities{};  ///< [classes]; may be empty
};

/// ERROR: no answer. `request` is all zero when it concerns the connection.
struct Fault {
  RequestId request{};
  FaultCode code = FaultCode::kNoSession;
  WireModelId model{};  ///< of the sender
  std::string text{};   ///< one line for people
  /// Of kOverloaded: when there is likely to be room again; 0 when the sender does not say.
  std::uint32_t retry_after_us = 0;
  bool operator==(const Fault&) const = default;
};

/// Node to client: from now on so many requests of this connection may be away at once. Each answer
/// gives one of them back. Since version 1.2.
struct Credit {
  std::uint16_t window = 0;
  bool operator==(const Credit&) const = default;
};

/// Client to node: nobody waits for this answer any more. It may still come. Since version 1.2.
struct Cancel {
  RequestId request{};
  bool operator==(const Cancel&) const = default;
};

struct Ping {
  std::uint64_t sequence = 0;
  bool operator==(const Ping&) const = default;
};

/// Comes from the worker loop, so that a stuck node is silent.
struct Pong {
  std::uint64_t sequence = 0;
  std::uint32_t queue_depth = 0;  ///< requests waiting for a worker
  std::uint32_t held_us = 0;      ///< between the ping's arrival and this message
  /// Median time that a worker takes for a request, and workers; 0 when the node does not say.
  std::uint32_t service_us = 0;
  std::uint16_t workers = 0;
  bool operator==(const Pong&) const = default;
};

/// Node to client: send nothing new; what was accepted will be answered.
struct Drain {
  bool operator==(const Drain&) const = default;
};

/// Client to node: I am leaving.
struct Bye {
  bool operator==(const Bye&) const = default;
};

using Message =
    std::variant<Hello, Welcome, Handoff, Verdict, Fault, Credit, Ping, Pong, Cancel, Drain, Bye>;

/// Why bytes were not a message.
enum class Malformed : std::uint8_t {
  kFrameCount,    ///< not exactly two frames
  kTruncated,     ///< a header shorter than its fixed part
  kMagic,         ///< not this protocol
  kVersion,       ///< another major version; the only one answered, with ERROR(VERSION)
  kHeaderLength,  ///< header length field differs from the frame's size
  kType,          ///< unknown message type, or one that may not go in this direction
  kFlags,         ///< flags this version does not know
  kItem,          ///< an item that overruns the header, has a wrong size, is missing or repeated
  kUnknownItem,   ///< an item that must be understood and is not
  kField,         ///< a field outside its range
  kPayload,       ///< payload where none belongs, lengths that disagree, or one above the limit
  kChecksum,      ///< the payload's XXH3 is wrong
};
inline constexpr std::size_t kMalformedCount = static_cast<std::size_t>(Malformed::kChecksum) + 1;
const char* malformed_name(Malformed reason);

struct Frames {
  std::vector<std::uint8_t> header;
  std::vector<std::uint8_t> payload{};
};

/// What the receiver is prepared to take.
struct DecodeLimits {
  std::size_t max_payload_bytes = 0;
  std::size_t max_classes = 0;  ///< of a Verdict's label and probabilities
  int max_exits = 0;            ///< of a Verdict's exit
};

/// The payload is moved out of a Handoff.
Frames encode(Message message);
/// The header alone. The payload frame is `handoff.tensor.payload` as it stands, so that it can be
/// sent again.
std::vector<std::uint8_t> encode_header(const Handoff& handoff);

[[nodiscard]] std::variant<Message, Malformed> decode(std::span<const std::uint8_t> header,
                                                      std::span<const std::uint8_t> payload,
                                                      const DecodeLimits& limits);

}  // namespace offramp
