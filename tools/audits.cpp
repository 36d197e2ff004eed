#include "tools/audits.h"

#include <nlohmann/json.hpp>

namespace offramp::cli {

nlohmann::ordered_json audit_json(const AuditCounts& audits) {
  if (audits.asked == 0) return {};
  nlohmann::ordered_json value = {{"asked", audits.asked},
                                  {"checked", audits.checked},
                                  {"agreed", audits.agreed},
                                  {"sent_bytes", audits.sent_bytes}};
  if (audits.checked == 0) return value;
  const Interval interval = agreement_interval(audits);
  value["agreement_95"] = {interval.low, interval.high};
  value["accuracy"] = audits.accuracy();
  return value;
}

}  // namespace offramp::cli
