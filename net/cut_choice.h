// What a device hands on of a sample that it is unsure of: the tensor at the cut, or the picture,
// which is smaller and makes the next tier begin again.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "net/poll.h"

namespace offramp {

enum class Form : std::uint8_t { kTensor, kPicture };

enum class Cut : std::uint8_t {
  kTensor,   ///< the picture never leaves the device
  kPicture,  ///< where the next tier takes it
  kAuto,     ///< what is answered sooner, as measured
};
const char* cut_name(Cut cut);  ///< "tensor", "picture", "auto"
std::optional<Cut> cut_named(std::string_view name);

/// Which of both forms is answered sooner. The times that are measured have all in them that
/// differs: the bytes on the link, and what the next tier computes. Once in a while the other form
/// is tried, as long as it is likely to be in time: links change.
class FormChoice {
 public:
  /// For a sample that has `budget` left.
  Form choose(Clock::duration budget, Clock::time_point now);

  /// A sample was answered after `time`, without its time in the next tier's queue.
  void answered(Form form, Clock::duration time, Clock::time_point now);
  /// None came within `time`.
  void late(Form form, Clock::duration time, Clock::time_point now);

 private:
  /// True, once, when a form is to be tried that was not sent for long.
  bool try_out(Form form, Clock::duration budget, Clock::time_point now);

  struct Record {
    bool known = false;
    Clock::duration time{};                             ///< smoothed
    Clock::time_point last = Clock::time_point::min();  ///< tried, or told of
  };
  Record& of(Form form) { return records_[static_cast<std::size_t>(form)]; }

  std::array<Record, 2> records_;
};

}  // namespace offramp
