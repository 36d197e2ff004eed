// What becomes of each picture of a run, and when: for those who look for the one that was late,
// lost or answered twice.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "net/device.h"
#include "tools/output.h"

namespace offramp::cli {

/// CSV, two lines a picture in the order in which things happen:
///
///     time_us,event,id,picture,tier,exit,label,probability,entropy,status,total_us
///
/// `begun` (the last seven are empty) when it has been read, `answered` when its outcome is known.
/// Times are the machine's steady clock, which all its processes share. Ids count up, and `picture`
/// is the place among the run's pictures. Floats are hexadecimal, the entropy is normalised;
/// total_us is what the device took, from `begun` on.
class History {
 public:
  /// Throws Error{kCannotWrite}, as all of them do.
  explicit History(const std::filesystem::path& path);

  void begun(std::size_t id, std::size_t picture);
  void answered(std::size_t id, std::size_t picture, const Outcome& outcome);
  void close() { file_.close(); }

 private:
  void begin_line(const char* event, std::size_t id, std::size_t picture);

  OutputFile file_;
  std::string line_;
};

}  // namespace offramp::cli
