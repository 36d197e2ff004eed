// net/message.h: every message survives the wire bit for bit, golden bytes, and what is refused.
#include "net/message.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "engine/file.h"
#include "net/tensor_codec.h"
#include "tests/test_files.h"
#include "tests/test_wire.h"

namespace offramp {
namespace {

using testing::hex;

constexpr DecodeLimits kLimits{.max_payload_bytes = 4096, .max_classes = 10, .max_exits = 3};

WireModelId some_model() {
  WireModelId id{};
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::uint8_t>(0xa0 + i);
  return id;
}

// The worked example of net/WIRE.md: one sample of 2 channels, 1 row, 2 columns.
Handoff example_handoff(const TensorFormat& format = {}) {
  const float pixels[] = {1.0f, -2.0f, 0.5f, 0.0f};
  const Shape shape{.channels = 2, .height = 1, .width = 2};
  return Handoff{.request = make_request_id(0x1122334455667788, 5),
                 .model = some_model(),
                 .cut = 1,
                 .attempt = 0,
                 .hop = 0,
                 .budget_us = 250000,
                 .tensor = encode_tensor({.data = pixels, .batch = 1, .shape = shape}, format)};
}

Verdict example_verdict() {
  return Verdict{.request = make_request_id(0x1122334455667788, 5),
                 .decision = {.label = 3, .probability = 0.75f, .entropy = 0.25f, .exit = 1},
                 .tier = Tier::kEdge,
                 .degraded = Reason::kLate,
                 .hops = {{Tier::kEdge, 10, 20, 30, 40}},
                 .probabilities = {0.25f, 0.75f}};
}

// clang-format off
// The headers of the worked examples in net/WIRE.md, field by field.
const std::string kGoldenInfer =
    "4f465250"                          // magic "OFRP"
    "0102" "03" "00"                    // version 1.2, INFER, no flags
    "6000" "01" "00" "04"               // header of 96 bytes, f32, raw, 4 dimensions
    "00" "00" "01"                      // attempt, hop, cut
    "8877665544332211" "0500000000000000"  // request id: session, counter
    "90d00300" "10000000" "10000000"    // 250,000 us left, payload and raw length 16
    "0000" "00" "00"                    // credit, tier, reserved
    "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"  // model
    "01000000" "01000000" "02000000" "02000000"  // N, H, W, C
    "0000000000000000"                  // reserved
    "643801d178da6797";                 // XXH3 of the payload
const std::string kGoldenNarrowInfer =
    "4f465250"
    "0102" "03" "00"
    "6000" "03" "00" "04"               // u8, raw
    "00" "00" "01"
    "8877665544332211" "0500000000000000"
    "90d00300" "09000000" "09000000"    // payload and raw length 9
    "0000" "00" "00"
    "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
    "01000000" "01000000" "02000000" "02000000"
    "0000000000000000"
    "c4de6fcd83a51a6a";
const std::string kGoldenResult =
    "4f465250"
    "0102" "04" "00"                    // RESULT
    "9300" "00" "00" "00"               // header of 147 bytes
    "00" "00" "00"
    "8877665544332211" "0500000000000000"
    "00000000" "00000000" "00000000"
    "0000" "01" "00"                    // tier: edge
    "00000000000000000000000000000000"
    "00000000" "00000000" "00000000" "00000000"
    "00000000" "00000000"
    "0000000000000000"
    "81" "1100"                         // DECISION, 17 bytes
    "03000000" "0000403f" "0000803e" "01000000" "03"  // label, probability, entropy, exit, late
    "03" "1100"                         // HOP, 17 bytes
    "01" "0a000000" "14000000" "1e000000" "28000000"  // edge, queue, compute, wait, sent
    "02" "0800"                         // PROBABILITIES, 8 bytes
    "0000803e" "0000403f";
const std::string kGoldenCredit =
    "4f465250" "0102" "06" "00"         // CREDIT
    "6000" "00" "00" "00" "00" "00" "00"
    "0000000000000000" "0000000000000000"
    "00000000" "00000000" "00000000"
    "0300" "00" "00"                    // window 3
    "00000000000000000000000000000000"
    "00000000" "00000000" "00000000" "00000000"
    "0000000000000000" "0000000000000000";
const std::string kGoldenCancel =
    "4f465250" "0102" "09" "00"         // CANCEL
    "6000" "00" "00" "00" "00" "00" "00"
    "8877665544332211" "0500000000000000"
    "00000000" "00000000" "00000000"
    "0000" "00" "00"
    "00000000000000000000000000000000"
    "00000000" "00000000" "00000000" "00000000"
    "0000000000000000" "0000000000000000";
const std::string kGoldenPong =
    "4f465250" "0102" "08" "00"         // PONG
    "7400" "00" "00" "00" "00" "00" "00"  // header of 116 bytes
    "0000000000000000" "0900000000000000"
    "00000000" "00000000" "00000000"
    "0000" "00" "00"
    "00000000000000000000000000000000"
    "00000000" "00000000" "00000000" "00000000"
    "0000000000000000" "0000000000000000"
    "04" "0800" "04000000" "05000000"   // LOAD: 4 in the queue, held for 5 us
    "05" "0600" "72010000" "0200";      // PACE: 370 us, 2 workers
// clang-format on

std::variant<Message, Malformed> decode(const Frames& frames) {
  return decode(frames.header, frames.payload, kLimits);
}

template <class T>
T through_the_wire(const T& message) {
  const auto decoded = decode(encode(message));
  REQUIRE(std::holds_alternative<Message>(decoded));
  const Message& received = std::get<Message>(decoded);
  REQUIRE(std::holds_alternative<T>(received));
  return std::get<T>(received);
}

Malformed refusal(const Frames& frames) {
  const auto decoded = decode(frames);
  REQUIRE(std::holds_alternative<Malformed>(decoded));
  return std::get<Malformed>(decoded);
}

// Appends an item and corrects the header's length.
void append_item(Frames& frames, std::uint8_t type, std::vector<std::uint8_t> value) {
  frames.header.push_back(type);
  frames.header.push_back(static_cast<std::uint8_t>(value.size() & 0xff));
  frames.header.push_back(static_cast<std::uint8_t>(value.size() >> 8));
  frames.header.insert(frames.header.end(), value.begin(), value.end());
  frames.header[8] = static_cast<std::uint8_t>(frames.header.size() & 0xff);
  frames.header[9] = static_cast<std::uint8_t>(frames.header.size() >> 8);
}

}  // namespace

TEST_CASE("message: control messages survive the wire") {
  const Shape shape{.channels = 16, .height = 32, .width = 31};
  const Hello hello{.session = 77, .model = some_model(), .cut = 2, .shape = shape};
  CHECK(through_the_wire(hello) == hello);
  const Welcome welcome{.session = 77,
                        .model = some_model(),
                        .cut = 2,
                        .shape = shape,
                        .tier = Tier::kCloud,
                        .window = 513};
  CHECK(through_the_wire(welcome) == welcome);
  Welcome with_pictures = welcome;
  with_pictures.pictures = true;
  CHECK(through_the_wire(with_pictures) == with_pictures);
  const Fault fault{.request = make_request_id(1, 2),
                    .code = FaultCode::kOverloaded,
                    .model = some_model(),
                    .text = "the queue is full",
                    .retry_after_us = 70000};
  CHECK(through_the_wire(fault) == fault);
  CHECK(through_the_wire(Credit{.window = 3}) == Credit{.window = 3});
  CHECK(through_the_wire(Credit{.window = 0}) == Credit{.window = 0});
  const Cancel cancel{.request = make_request_id(7, 8)};
  CHECK(through_the_wire(cancel) == cancel);
  CHECK(through_the_wire(Ping{.sequence = 9}) == Ping{.sequence = 9});
  const Pong pong{.sequence = 9, .queue_depth = 4, .held_us = 1234567};
  CHECK(through_the_wire(pong) == pong);
  const Pong paced{.sequence = 9, .queue_depth = 4, .held_us = 5, .service_us = 370, .workers = 2};
  CHECK(through_the_wire(paced) == paced);
  CHECK(through_the_wire(Drain{}) == Drain{});
  CHECK(through_the_wire(Bye{}) == Bye{});
}

TEST_CASE("message: a handoff survives the wire") {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel}) {
    const Handoff handoff = example_handoff({.dtype = dtype});
    CHECK(through_the_wire(handoff) == handoff);
  }
  Handoff packed = example_handoff();
  packed.tensor.codec = Codec::kLz4;
  packed.tensor.raw_bytes = 100;
  CHECK(through_the_wire(packed) == packed);
  Handoff picture = example_handoff();
  picture.cut = 0;
  picture.tensor.dtype = DType::kPixels;
  CHECK(through_the_wire(picture) == picture);
}

TEST_CASE("message: a verdict keeps every bit of its floats") {
  const float awkward[] = {-0.0f, std::numeric_limits<float>::denorm_min(),
                           std::nextafter(1.0f, 2.0f), std::numeric_limits<float>::max()};
  for (const float value : awkward) {
    Verdict verdict = example_verdict();
    verdict.decision.probability = value;
    verdict.decision.entropy = -value;
    verdict.probabilities = {value, -value};
    const Verdict received = through_the_wire(verdict);
    CHECK(std::bit_cast<std::uint32_t>(received.decision.probability) ==
          std::bit_cast<std::uint32_t>(value));
    CHECK(std::bit_cast<std::uint32_t>(received.decision.entropy) ==
          std::bit_cast<std::uint32_t>(-value));
    REQUIRE(received.probabilities.size() == 2);
    CHECK(std::bit_cast<std::uint32_t>(received.probabilities[0]) ==
          std::bit_cast<std::uint32_t>(value));
    CHECK(received.decision.label == 3);
    CHECK(received.decision.exit == 1);
    CHECK(received.tier == Tier::kEdge);
    CHECK(received.degraded == Reason::kLate);
    CHECK(received.hops == verdict.hops);
    CHECK(received.request == verdict.request);
  }
}

TEST_CASE("message: golden bytes of net/WIRE.md") {
  const Frames handoff = encode(example_handoff());
  CHECK(hex(handoff.header) == kGoldenInfer);
  CHECK(hex(handoff.payload) == "0000803f000000c00000003f00000000");
  const Frames narrow = encode(example_handoff({.dtype = DType::kU8}));
  CHECK(hex(narrow.header) == kGoldenNarrowInfer);
  CHECK(hex(narrow.payload) == "b0c2403caaff00d4aa");
  const Frames verdict = encode(example_verdict());
  CHECK(hex(verdict.header) == kGoldenResult);
  CHECK(verdict.payload.empty());
  // What the examples show of messages since 1.2.
  CHECK(hex(encode(Credit{.window = 3}).header) == kGoldenCredit);
  CHECK(hex(encode(Cancel{.request = make_request_id(0x1122334455667788, 5)}).header) ==
        kGoldenCancel);
  const Frames pong =
      encode(Pong{.sequence = 9, .queue_depth = 4, .held_us = 5, .service_us = 370, .workers = 2});
  CHECK(hex(pong.header) == kGoldenPong);
}

TEST_CASE("message: every truncation is refused") {
  for (const Message& message :
       {Message(example_handoff()), Message(example_verdict()),
        Message(Fault{.request = {}, .code = FaultCode::kNoSession, .model = {}, .text = "x"})}) {
    const Frames whole = encode(message);
    for (std::size_t size = 0; size < whole.header.size(); ++size) {
      CAPTURE(size);
      Frames cut = whole;
      cut.header.resize(size);
      CHECK(refusal(cut) ==
            (size < kFixedHeaderBytes ? Malformed::kTruncated : Malformed::kHeaderLength));
    }
  }
}

TEST_CASE("message: no flipped bit of a handoff is read as something else unnoticed") {
  const Frames whole = encode(example_handoff());
  for (std::size_t bit = 0; bit < 8 * whole.payload.size(); ++bit) {
    Frames flipped = whole;
    flipped.payload[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    CHECK(refusal(flipped) == Malformed::kChecksum);
  }
}

TEST_CASE("message: refusals and their reasons") {
  Frames frames = encode(example_handoff());
  SUBCASE("magic") {
    frames.header[0] ^= 1;
    CHECK(refusal(frames) == Malformed::kMagic);
  }
  SUBCASE("major version") {
    frames.header[kMajorOffset] = kWireMajor + 1;
    CHECK(refusal(frames) == Malformed::kVersion);
  }
  SUBCASE("type") {
    for (const int type : {0, 12, 255}) {
      Frames control = encode(Bye{});
      control.header[6] = static_cast<std::uint8_t>(type);
      CHECK(refusal(control) == Malformed::kType);
    }
  }
  SUBCASE("flags") {
    frames.header[7] = 1;
    CHECK(refusal(frames) == Malformed::kFlags);
  }
  SUBCASE("dtype, codec, number of dimensions") {
    for (const auto& [offset, value] : {std::pair<std::size_t, std::uint8_t>{10, 0},
                                        {10, 6},
                                        {10, 255},
                                        {11, 2},
                                        {11, 255},
                                        {12, 3},
                                        {12, 5}}) {
      Frames other = frames;
      other.header[offset] = value;
      CHECK(refusal(other) == Malformed::kField);
    }
    Frames hello = encode(Hello{.shape = {.channels = 1}});
    REQUIRE(std::holds_alternative<Message>(decode(hello)));
    hello.header[10] = 3;
    CHECK(refusal(hello) == Malformed::kField);
  }
  SUBCASE("dimension 0, batch of 2, dimension of 2^32 - 1") {
    for (const std::size_t offset : {64u, 68u, 72u, 76u}) {
      Frames other = frames;
      other.header[offset] = 0;
      CHECK(refusal(other) == Malformed::kField);
      for (std::size_t i = 0; i < 4; ++i) other.header[offset + i] = 0xff;
      CHECK(refusal(other) == Malformed::kField);
    }
    frames.header[64] = 2;
    CHECK(refusal(frames) == Malformed::kField);
  }
  SUBCASE("payload shorter or longer than announced, or above the limit") {
    Frames other = frames;
    other.payload.pop_back();
    CHECK(refusal(other) == Malformed::kPayload);
    other = frames;
    other.payload.push_back(0);
    CHECK(refusal(other) == Malformed::kPayload);
    Handoff large = example_handoff();
    large.tensor.payload.resize(kLimits.max_payload_bytes + 4);
    large.tensor.raw_bytes = static_cast<std::uint32_t>(large.tensor.payload.size());
    CHECK(refusal(encode(large)) == Malformed::kPayload);
  }
  SUBCASE("unpacked length that does not fit the codec, or is above the limit") {
    constexpr std::size_t kRawLength = 40;
    const auto with_raw_length = [](Frames other, std::uint32_t bytes) {
      for (std::size_t i = 0; i < 4; ++i)
        other.header[kRawLength + i] = static_cast<std::uint8_t>(bytes >> (8 * i));
      return other;
    };
    for (const std::uint32_t bytes : {0u, 15u, 17u, 0xffffffffu})
      CHECK(refusal(with_raw_length(frames, bytes)) == Malformed::kPayload);
    frames.header[11] = static_cast<std::uint8_t>(Codec::kLz4);
    for (const std::uint32_t bytes : {0u, 15u, 16u, 4097u, 0xffffffffu})
      CHECK(refusal(with_raw_length(frames, bytes)) == Malformed::kPayload);
    CHECK(std::holds_alternative<Message>(decode(with_raw_length(frames, 17))));
    CHECK(std::holds_alternative<Message>(decode(with_raw_length(frames, 4096))));
  }
  SUBCASE("payload on a control message") {
    Frames control = encode(Bye{});
    control.payload.push_back(0);
    CHECK(refusal(control) == Malformed::kPayload);
  }
  SUBCASE("verdict without a decision, fault without a code") {
    Frames verdict = encode(Bye{});
    verdict.header[6] = 4;
    CHECK(refusal(verdict) == Malformed::kItem);
    verdict.header[6] = 5;
    CHECK(refusal(verdict) == Malformed::kItem);
  }
  SUBCASE("two decisions, decision of a wrong size, too many hops") {
    Frames verdict = encode(example_verdict());
    Frames twice = verdict;
    const auto decision = verdict.header.begin() + kFixedHeaderBytes + 3;
    append_item(twice, 0x81, {decision, decision + 17});
    CHECK(refusal(twice) == Malformed::kItem);
    Frames wrong = encode(Bye{});
    append_item(wrong, 0x81, std::vector<std::uint8_t>(16));
    CHECK(refusal(wrong) == Malformed::kItem);
    for (std::size_t i = 0; i < kMaxHops; ++i)
      append_item(verdict, 0x03, std::vector<std::uint8_t>(17));
    CHECK(refusal(verdict) == Malformed::kItem);
  }
  SUBCASE("label, exit, probability, entropy out of range") {
    for (const auto& [label, exit] : {std::pair{-1, 0}, {10, 0}, {0, -1}, {0, 3}}) {
      Verdict verdict = example_verdict();
      verdict.decision.label = label;
      verdict.decision.exit = exit;
      CHECK(refusal(encode(verdict)) == Malformed::kField);
    }
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      Verdict verdict = example_verdict();
      verdict.decision.entropy = bad;
      CHECK(refusal(encode(verdict)) == Malformed::kField);
      verdict = example_verdict();
      verdict.probabilities[1] = bad;
      CHECK(refusal(encode(verdict)) == Malformed::kField);
    }
  }
  SUBCASE("more probabilities than classes") {
    Verdict verdict = example_verdict();
    verdict.probabilities.resize(11);
    CHECK(refusal(encode(verdict)) == Malformed::kItem);
  }
  SUBCASE("item that overruns the header") {
    append_item(frames, 0x01, {'a'});
    frames.header[frames.header.size() - 3] = 2;
    CHECK(refusal(frames) == Malformed::kItem);
  }
}

TEST_CASE("message: unknown items are skipped, unless they must be understood") {
  Frames frames = encode(example_handoff());
  append_item(frames, 0x7f, {1, 2, 3});
  const auto decoded = decode(frames);
  REQUIRE(std::holds_alternative<Message>(decoded));
  CHECK(std::get<Handoff>(std::get<Message>(decoded)) == example_handoff());
  append_item(frames, 0x83, {1});
  CHECK(refusal(frames) == Malformed::kUnknownItem);
}

TEST_CASE("message: other minor versions are read, and HELLO and WELCOME say which") {
  for (const int minor : {0, 1, kWireMinor + 1, 255}) {
    const auto sent_by = [minor](Frames frames) {
      frames.header[5] = static_cast<std::uint8_t>(minor);
      return decode(frames);
    };
    CHECK(std::holds_alternative<Message>(sent_by(encode(example_handoff()))));
    const Shape shape{.channels = 1};
    const auto hello = sent_by(encode(Hello{.shape = shape}));
    CHECK(std::get<Hello>(std::get<Message>(hello)).minor == minor);
    const auto welcome = sent_by(encode(Welcome{.shape = shape}));
    CHECK(std::get<Welcome>(std::get<Message>(welcome)).minor == minor);
  }
}

TEST_CASE("message: a fault's text is bounded and printable") {
  Fault fault{.code = FaultCode::kNoSession};
  fault.text = std::string(kMaxTextBytes + 100, 'x') + "y";
  CHECK(through_the_wire(fault).text == std::string(kMaxTextBytes, 'x'));
  fault.text = "a\nb\x1b[31m";
  CHECK(through_the_wire(fault).text == "a?b?[31m");
}

// The bytes are written down once; tests/wire_decode_test.py reads them with a second
// implementation.
TEST_CASE("message: the bytes of tests/fixtures/wire") {
  const std::filesystem::path folder =
      std::filesystem::path(OFFRAMP_SOURCE_DIR) / "tests" / "fixtures" / "wire";
  const testing::Bytes text = read_file(folder / "messages.json");
  const nlohmann::json wanted = nlohmann::json::parse(text.begin(), text.end());
  const auto not_written_so = wanted["not_written_so"].get<std::set<std::string>>();
  const DecodeLimits limits{.max_payload_bytes = wanted["limits"]["payload"],
                            .max_classes = wanted["limits"]["classes"],
                            .max_exits = wanted["limits"]["exits"]};
  const auto messages = testing::read_wire_hex(folder / "messages.hex");
  CHECK(messages.size() == wanted["messages"].size());
  for (const auto& entry : messages) {
    const std::string& name = entry.first;
    const std::vector<testing::Bytes>& frames = entry.second;
    CAPTURE(name);
    const auto decoded = testing::decode_frames(frames, limits);
    // As text, which tells -0.0 from 0.0.
    CHECK(testing::wire_json(decoded).dump() == wanted["messages"][name].dump());
    if (const auto* message = std::get_if<Message>(&decoded)) {
      const Frames written = encode(*message);
      CHECK((written.header == frames[0] && written.payload == frames[1]) !=
            not_written_so.contains(name));
    }
  }
}

}  // namespace offramp
