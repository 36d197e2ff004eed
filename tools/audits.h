// What audits came to, as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "net/audit.h"

namespace offramp::cli {

/// Null when none was asked.
nlohmann::ordered_json audit_json(const AuditCounts& audits);

}  // namespace offramp::cli
