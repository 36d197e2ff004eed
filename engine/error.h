// The one exception of the library, and the exit codes of the program that catches it.
#pragma once

#include <stdexcept>
#include <string>

namespace offramp {

/// What went wrong, as far as the caller's reaction depends on it. The values are the exit codes of
/// the `offramp` command and follow BSD's sysexits.h.
enum class ErrorKind {
  kUsage = 64,         ///< option or threshold out of range
  kBadData = 65,       ///< a file that was read but is not what it should be (picture, data set)
  kMissingInput = 66,  ///< a file or folder that is not there or may not be read
  kUnavailable = 69,   ///< a peer that does not answer, an address in use
  kSystem = 71,        ///< the operating system refused (memory, threads, sockets)
  kCannotWrite = 73,   ///< an output file that cannot be created
  kBadModel = 78,      ///< a model file that is damaged or does not fit its own description
};

/// Thrown for bad files, flags and configuration. `what()` is one line that says where, what was
/// wanted and what was found.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace offramp
