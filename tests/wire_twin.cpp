// The C++ side of tests/wire_decode_test.py, which compares it with tools/wire.py.
//
//   wire_twin random SEED COUNT     writes messages as encode() writes them, as a capture
//   wire_twin decode C E BYTES      reads a capture, says a line of JSON about each message;
//                                   limits: classes, exits, bytes of a payload
//
// A capture: u32 length and header frame, u32 length and payload frame, and so on.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "net/bytes.h"
#include "net/tensor_codec.h"
#include "tests/test_wire.h"

namespace offramp {
namespace {

using testing::Bytes;

constexpr std::size_t kClasses = 10;

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}

  template <class T>
  T up_to(T largest) {
    return static_cast<T>(random_() % (static_cast<std::uint64_t>(largest) + 1));
  }
  /// Any number, often a small or the largest one.
  template <class T>
  T any() {
    const auto bits = static_cast<T>(random_());
    const int kind = up_to(3);
    return kind == 0 ? T{0} : kind == 1 ? std::numeric_limits<T>::max() : bits;
  }
  float finite() {
    constexpr float kAwkward[] = {-0.0f, 1e-45f, 3.4e38f, -65504.0f, 65520.0f, 1.0f};
    if (up_to(7) == 0) return kAwkward[up_to(5)];
    return std::normal_distribution<float>(0.0f, 3.0f)(random_);
  }
  float number() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const int kind = up_to(400);
    return kind == 0 ? kInfinity : kind == 1 ? std::nanf("") : finite();
  }
  RequestId request() { return make_request_id(any<std::uint64_t>(), any<std::uint64_t>()); }
  WireModelId model() {
    WireModelId id{};
    for (std::uint8_t& byte : id) byte = any<std::uint8_t>();
    return id;
  }
  Shape shape() { return {1 + up_to(5), 1 + up_to(3), 1 + up_to(4)}; }

  Message message() {
    switch (up_to(10)) {
      case 0:
        return Hello{.session = any<std::uint64_t>(),
                     .model = model(),
                     .cut = any<std::uint8_t>(),
                     .shape = shape()};
      case 1:
        return Welcome{.session = any<std::uint64_t>(),
                       .model = model(),
                       .cut = any<std::uint8_t>(),
                       .shape = shape(),
                       .tier = static_cast<Tier>(up_to(2)),
                       .window = any<std::uint16_t>(),
                       .pictures = up_to(1) == 0};
      case 2:
        return Credit{.window = any<std::uint16_t>()};
      case 3:
        return Ping{.sequence = any<std::uint64_t>()};
      case 4:
        return Pong{any<std::uint64_t>(), any<std::uint32_t>(), any<std::uint32_t>(), 370, 2};
      case 5:
        return Cancel{.request = request()};
      case 6:
        return up_to(1) == 0 ? Message(Drain{}) : Message(Bye{});
      case 7:
        return fault();
      case 8:
        return verdict();
      default:
        return handoff();
    }
  }

 private:
  Fault fault() {
    Fault fault{.request = request(),
                .code = static_cast<FaultCode>(1 + up_to(9)),
                .model = model(),
                .text = std::string(up_to(std::size_t{40}), 'x')};
    fault.retry_after_us = any<std::uint32_t>();
    return fault;
  }
  Verdict verdict() {
    Verdict verdict;
    verdict.request = request();
    verdict.tier = static_cast<Tier>(up_to(2));
    verdict.decision = {up_to(9), finite(), finite(), up_to(2)};
    verdict.degraded = static_cast<Reason>(up_to(9));
    for (std::size_t i = up_to(kMaxHops); i > 0; --i)
      verdict.hops.push_back({static_cast<Tier>(up_to(2)), any<std::uint32_t>(),
                              any<std::uint32_t>(), any<std::uint32_t>(), any<std::uint32_t>()});
    for (std::size_t i = up_to(kClasses); i > 0; --i) verdict.probabilities.push_back(finite());
    return verdict;
  }
  Handoff handoff() {
    const Shape sides = shape();
    const float level = finite();
    const bool flat = up_to(1) == 0;
    std::vector<float> values(sides.elements());
    for (float& value : values) value = flat ? level : number();
    return Handoff{
        .request = request(),
        .model = model(),
        .cut = any<std::uint8_t>(),
        .attempt = any<std::uint8_t>(),
        .hop = any<std::uint8_t>(),
        .budget_us = any<std::uint32_t>(),
        .tensor = up_to(5) == 0 ? pixels()
                                : encode_tensor({.data = values.data(), .batch = 1, .shape = sides},
                                                {static_cast<DType>(1 + up_to(3)),
                                                 static_cast<Codec>(up_to(1))})};
  }
  WireTensor pixels() {
    static const PixelTable table{Preprocess{}};
    Shape sides = shape();
    sides.channels = 3;
    Bytes rgb(sides.elements());
    for (std::uint8_t& byte : rgb) byte = any<std::uint8_t>();
    std::vector<float> values(rgb.size());
    table.normalise(rgb, values.data());
    return encode_pixels({.data = values.data(), .batch = 1, .shape = sides}, table,
                         static_cast<Codec>(up_to(1)))
        .value();
  }

  std::mt19937_64 random_;
};

int write_random(std::uint64_t seed, int count) {
  Dice dice(seed);
  ByteWriter out;
  for (int i = 0; i < count; ++i) {
    const Frames frames = encode(dice.message());
    for (const Bytes* frame : {&frames.header, &frames.payload}) {
      out.u32(static_cast<std::uint32_t>(frame->size()));
      out.raw(*frame);
    }
  }
  const Bytes bytes = out.take();
  std::cout.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
  return std::cout.flush() ? 0 : 1;
}

int decode_capture(const DecodeLimits& limits) {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const Bytes bytes(text.begin(), text.end());
  ByteReader in(bytes);
  while (in.left() > 0) {
    std::vector<Bytes> frames;
    for (int i = 0; i < 2; ++i) {
      const auto frame = in.raw(in.u32());
      frames.emplace_back(frame.begin(), frame.end());
    }
    if (!in.ok()) {
      std::cerr << "wire_twin: wanted a capture, found its end within a frame\n";
      return 65;
    }
    std::cout << testing::wire_json(testing::decode_frames(frames, limits)).dump() << '\n';
  }
  return std::cout.flush() ? 0 : 1;
}

int run(std::span<char*> arguments) {
  const std::vector<std::string> words(arguments.begin() + 1, arguments.end());
  if (words.size() == 3 && words[0] == "random")
    return write_random(std::stoull(words[1]), std::stoi(words[2]));
  if (words.size() == 4 && words[0] == "decode")
    return decode_capture({.max_payload_bytes = std::stoul(words[3]),
                           .max_classes = std::stoul(words[1]),
                           .max_exits = std::stoi(words[2])});
  std::cerr << "wire_twin: wanted random SEED COUNT or decode CLASSES EXITS BYTES\n";
  return 64;
}

}  // namespace
}  // namespace offramp

int main(int count, char** arguments) {
  return offramp::run({arguments, static_cast<std::size_t>(count)});
}
