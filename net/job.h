// A request on its way through a node's queue and workers.
#pragma once

#include <cstdint>

#include "engine/tensor.h"
#include "net/fronts.h"
#include "net/message.h"
#include "net/poll.h"

namespace offramp {

/// A sample to run through the node's stages.
struct Job {
  Peer peer;
  RequestId request{};
  std::uint8_t cut = 0;  ///< index of the first stage to run
  std::uint8_t hop = 0;
  Clock::time_point arrived;
  Clock::time_point answer_by;  ///< when the answer is to leave this node
  bool audit = false;           ///< to be handed on though the node's exit be sure of it
  Buffer input;                 ///< [height, width, channels]
};

}  // namespace offramp
