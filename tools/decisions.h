// Decisions as a file, exact to the bit, so that two ways of getting them can be compared with
// `cmp`.
#pragma once

#include <string>
#include <vector>

#include "engine/exits.h"
#include "tools/output.h"

namespace offramp::cli {

struct DecisionRow {
  std::size_t index = 0;  ///< of the picture
  Decision decision;
  std::string status = "ok";  ///< or "local", "degraded(reason)", "error(reason)"
  bool answered = true;       ///< false: there is no decision
};

/// CSV: index,label,exit,probability,entropy,status. Label and exit are indices; probability and
/// entropy (normalised) are hexadecimal floats. Without an answer these four are empty.
void write_decisions(OutputFile& file, const std::vector<DecisionRow>& rows);

}  // namespace offramp::cli
