// What `offramp load` tells of a measurement.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "net/telemetry.h"
#include "tools/load_driver.h"
#include "tools/output.h"

namespace offramp::cli {

/// Sums over the requests of one phase that were to be sent after its warm-up. Latencies in
/// microseconds, of the answers that are RESULTs, degraded ones too: errors come sooner.
struct LoadRow {
  LoadRow(const LoadPhase& phase, const LoadDriver::Result& result, Clock::duration deadline);

  std::uint64_t degraded() const;
  std::uint64_t faults() const;
  std::uint64_t unsent() const;
  std::uint64_t requests() const { return sent + unsent(); }
  /// Nineteen of twenty requests get the whole cascade's answer in time.
  bool keeps_up() const;

  double rate = 0.0;    ///< that was asked for; 0 in a closed loop
  int concurrency = 0;  ///< of a closed loop
  double seconds = 0.0;
  std::uint64_t sent = 0;  ///< ok + degraded + faults + lost
  std::uint64_t ok = 0;
  std::array<std::uint64_t, kReasonCount> degraded_by{};   ///< by Reason
  std::array<std::uint64_t, kFaultCodeCount> faults_by{};  ///< by FaultCode
  std::array<std::uint64_t, kReasonCount> unsent_by{};     ///< by Reason
  std::uint64_t lost = 0;
  std::uint64_t duplicated = 0;
  std::uint64_t broken = 0;  ///< connections
  std::uint64_t late = 0;    ///< RESULTs after the deadline
  std::uint64_t wrong = 0;   ///< RESULTs that are not what the cascade says
  std::uint64_t ok_in_time = 0;
  double goodput = 0.0;  ///< ok_in_time a second
  double p50 = 0.0, p90 = 0.0, p99 = 0.0, p999 = 0.0, worst = 0.0;
  double own_lag_p99 = 0.0;  ///< from when requests were to be sent to when they were
};

/// One line a row.
class LoadTable {
 public:
  LoadTable();
  std::string header() const { return table_.header(); }
  std::string line(const LoadRow& row) const;

 private:
  Table table_;
};

/// "  12 degraded: late; 30 errors: overloaded": what stands behind a row's numbers; "" for
/// nothing.
std::string load_details(const LoadRow& row);

nlohmann::ordered_json load_json(const LoadRow& row);

/// A line of names, a line for each row.
std::string load_csv(std::span<const LoadRow> rows);

/// Every request of one phase, warm-up included (its times are negative).
std::string request_csv_header();
std::string request_csv(const LoadPhase& phase, const LoadDriver::Result& result);

}  // namespace offramp::cli
