// The numbers and the fixed part of net/WIRE.md, for the two files that write and read it.
#pragma once

#include <array>
#include <cstdint>

#include "net/message.h"

namespace offramp::wire {

inline constexpr std::array<std::uint8_t, 4> kMagic{'O', 'F', 'R', 'P'};
inline constexpr std::uint32_t kMaxSide = 1u << 24;

// The numbers of net/WIRE.md.
enum class Type : std::uint8_t {
  kHello = 1,
  kWelcome = 2,
  kInfer = 3,
  kResult = 4,
  kError = 5,
  kCredit = 6,
  kPing = 7,
  kPong = 8,
  kCancel = 9,
  kDrain = 10,
  kBye = 11,
};

enum class Item : std::uint8_t {
  kText = 0x01,
  kProbabilities = 0x02,
  kHop = 0x03,
  kLoad = 0x04,
  kPace = 0x05,
  kRetryAfter = 0x06,
  kPictures = 0x07,
  kDecision = 0x81,
  kFault = 0x82,
};
inline constexpr std::uint8_t kMustUnderstand = 0x80;

inline constexpr std::size_t kHopBytes = 17;
inline constexpr std::size_t kLoadBytes = 8;
inline constexpr std::size_t kPaceBytes = 6;
inline constexpr std::size_t kRetryAfterBytes = 4;
inline constexpr std::size_t kDecisionBytes = 17;
inline constexpr std::size_t kFaultBytes = 2;

// The fixed part of the header, in the order of its bytes.
struct Fixed {
  std::uint8_t major = kWireMajor;
  std::uint8_t minor = kWireMinor;
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint16_t header_bytes = 0;
  std::uint8_t dtype = 0;
  std::uint8_t codec = 0;
  std::uint8_t ndim = 0;
  std::uint8_t attempt = 0;
  std::uint8_t hop = 0;
  std::uint8_t cut = 0;
  RequestId request{};
  std::uint32_t budget_us = 0;
  std::uint32_t payload_bytes = 0;
  std::uint32_t raw_bytes = 0;
  std::uint16_t credit = 0;
  std::uint8_t tier = 0;
  WireModelId model{};
  std::array<std::uint32_t, 4> dims{};
  std::uint64_t checksum = 0;
};

}  // namespace offramp::wire
