// What a node serves, and so what it takes: the checks of HELLO and INFER against its own model.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "engine/cascade.h"
#include "engine/picture.h"
#include "net/job.h"

namespace offramp {

/// Why something was not taken, as the peer is told.
struct Refusal {
  FaultCode code;
  std::string text;  ///< one line: what was wanted and what was found
};

class Admission {
 public:
  /// `stages` are all of the model's and outlive this; the node runs [first, first + count), and
  /// all before them for pictures, which it takes when it knows how they are made into inputs.
  /// Throws Error{kUsage} when those are not there, Error{kBadModel} when one takes more than 1
  /// GiB.
  Admission(std::span<const Stage> stages, const WireModelId& model, int first, int count,
            const std::optional<Preprocess>& pictures = {});

  std::optional<Refusal> refusal(const Hello& hello) const;

  /// The work that a request asks for, with its tensor decoded.
  std::variant<Job, Refusal> job(const Peer& peer, const Handoff& handoff,
                                 Clock::time_point now) const;

  bool takes_pictures() const { return pixels_.has_value(); }
  /// What messages to and from this node may hold.
  const DecodeLimits& limits() const { return limits_; }

 private:
  bool serves(std::uint8_t cut, const Shape& shape) const;
  bool is_picture(const Handoff& handoff) const;

  std::span<const Stage> stages_;
  WireModelId model_;
  int first_, count_;
  std::optional<PixelTable> pixels_;
  DecodeLimits limits_;
};

}  // namespace offramp
