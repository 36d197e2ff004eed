// A node's telemetry in Prometheus's text format. `offramp top` and the tests read the same names.
#pragma once

#include <string>
#include <vector>

#include "net/telemetry.h"

namespace offramp::cli {

/// What does not change while a node runs.
struct NodeIdentity {
  std::string tier, model, model_id;
  std::vector<std::string> exits;  ///< names, in the model's order
};

std::string metrics_text(const TelemetrySnapshot& snapshot, const NodeIdentity& identity);

}  // namespace offramp::cli
