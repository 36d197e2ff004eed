#include "tools/load_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "tools/statistics.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using enum Table::Align;

double microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

template <std::size_t N>
std::uint64_t sum(const std::array<std::uint64_t, N>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

const char* name_of_reason(std::size_t index) { return reason_name(static_cast<Reason>(index)); }

const char* name_of_fault(std::size_t index) { return fault_name(static_cast<FaultCode>(index)); }

// The counts that are not 0, by name.
template <std::size_t N>
std::vector<std::pair<std::string, std::uint64_t>> named(const std::array<std::uint64_t, N>& counts,
                                                         const char* (*name)(std::size_t)) {
  std::vector<std::pair<std::string, std::uint64_t>> all;
  for (std::size_t i = 0; i < N; ++i)
    if (counts[i] > 0) all.emplace_back(name(i), counts[i]);
  return all;
}

// "no_next_tier"
std::string column(const std::string& prefix, std::string name) {
  std::ranges::replace(name, ' ', '_');
  return prefix + name;
}

template <std::size_t N>
Json counts_json(const std::array<std::uint64_t, N>& counts, const char* (*name)(std::size_t)) {
  Json value = Json::object();
  for (const auto& [what, count] : named(counts, name)) value[column("", what)] = count;
  return value;
}

std::string rate_text(const LoadRow& row) {
  return row.rate > 0.0 ? format_short(row.rate) : std::to_string(row.concurrency) + " away";
}

}  // namespace

LoadRow::LoadRow(const LoadPhase& phase, const LoadDriver::Result& result, Clock::duration deadline)
    : rate(phase.rate),
      concurrency(phase.concurrency),
      seconds(std::chrono::duration<double>(phase.duration).count()),
      duplicated(result.duplicated),
      broken(result.broken) {
  std::vector<double> latencies, lags;
  for (const LoadRecord& record : result.records) {
    if (record.intended < phase.warmup) continue;
    const auto reason = static_cast<std::size_t>(record.reason);
    if (record.end == LoadEnd::kUnsent) {
      ++unsent_by.at(reason);
      continue;
    }
    ++sent;
    lags.push_back(microseconds(record.sent));
    if (record.end == LoadEnd::kLost) ++lost;
    if (record.end == LoadEnd::kFault) ++faults_by.at(static_cast<std::size_t>(record.code));
    if (record.end == LoadEnd::kDegraded) ++degraded_by.at(reason);
    if (record.end == LoadEnd::kOk) ++ok;
    if (record.end != LoadEnd::kOk && record.end != LoadEnd::kDegraded) continue;
    latencies.push_back(microseconds(record.latency));
    const bool in_time = record.latency <= deadline;
    late += in_time ? 0 : 1;
    wrong += record.right ? 0 : 1;
    ok_in_time += in_time && record.end == LoadEnd::kOk ? 1 : 0;
  }
  goodput = static_cast<double>(ok_in_time) / seconds;
  std::ranges::sort(latencies);
  std::ranges::sort(lags);
  p50 = percentile(latencies, 0.5);
  p90 = percentile(latencies, 0.9);
  p99 = percentile(latencies, 0.99);
  p999 = percentile(latencies, 0.999);
  worst = percentile(latencies, 1.0);
  own_lag_p99 = percentile(lags, 0.99);
}

std::uint64_t LoadRow::degraded() const { return sum(degraded_by); }
std::uint64_t LoadRow::faults() const { return sum(faults_by); }
std::uint64_t LoadRow::unsent() const { return sum(unsent_by); }

bool LoadRow::keeps_up() const { return ok_in_time > 0 && 20 * ok_in_time >= 19 * requests(); }

LoadTable::LoadTable()
    : table_({{"RATE", kRight, 9},
              {"SENT", kRight, 9},
              {"OK", kRight, 9},
              {"DEGRADED", kRight, 8},
              {"ERRORS", kRight, 7},
              {"UNSENT", kRight, 7},
              {"LOST", kRight, 5},
              {"TWICE", kRight, 5},
              {"LATE", kRight, 6},
              {"WRONG", kRight, 5},
              {"GOODPUT", kRight, 9},
              {"P50", kRight, 9},
              {"P90", kRight, 9},
              {"P99", kRight, 10},
              {"P99.9", kRight, 10},
              {"MAX", kRight, 10}}) {}

std::string LoadTable::line(const LoadRow& row) const {
  const bool clean = row.lost + row.duplicated + row.wrong == 0;
  return table_.line(
      {rate_text(row), format_grouped(row.sent), format_grouped(row.ok),
       format_grouped(row.degraded()), format_grouped(row.faults()), format_grouped(row.unsent()),
       format_grouped(row.lost), format_grouped(row.duplicated), format_grouped(row.late),
       format_grouped(row.wrong), format_fixed(row.goodput, 1) + "/s", format_ms(row.p50),
       format_ms(row.p90), format_ms(row.p99), format_ms(row.p999), format_ms(row.worst)},
      clean ? Style::kPlain : Style::kWarn);
}

std::string load_details(const LoadRow& row) {
  std::string text;
  const auto add = [&text](const std::string& what,
                           const std::vector<std::pair<std::string, std::uint64_t>>& counts) {
    for (const auto& [name, count] : counts) {
      text += text.empty() ? "  " : "; ";
      text += format_grouped(count) + " " + what;
      text += ": " + name;
    }
  };
  add("degraded", named(row.degraded_by, name_of_reason));
  add("errors", named(row.faults_by, name_of_fault));
  add("unsent", named(row.unsent_by, name_of_reason));
  if (row.broken > 0)
    text += (text.empty() ? "  " : "; ") + format_grouped(row.broken) + " connections lost";
  // A fifth of the median says that the median itself is in doubt.
  if (row.own_lag_p99 > std::max(1000.0, row.p50 / 5))
    text += (text.empty() ? "  " : "; ") + std::string("this program sent late, p99 ") +
            format_ms(row.own_lag_p99);
  return text.empty() ? text : text + "\n";
}

Json load_json(const LoadRow& row) {
  Json value = Json::object();
  if (row.rate > 0.0)
    value["rate"] = row.rate;
  else
    value["concurrency"] = row.concurrency;
  value["seconds"] = row.seconds;
  value["sent"] = row.sent;
  value["ok"] = row.ok;
  value["degraded"] = counts_json(row.degraded_by, name_of_reason);
  value["errors"] = counts_json(row.faults_by, name_of_fault);
  value["unsent"] = counts_json(row.unsent_by, name_of_reason);
  value["lost"] = row.lost;
  value["duplicated"] = row.duplicated;
  value["connections_lost"] = row.broken;
  value["late"] = row.late;
  value["wrong"] = row.wrong;
  value["goodput"] = row.goodput;
  value["latency_ms"] = {{"p50", row.p50 / 1e3},
                         {"p90", row.p90 / 1e3},
                         {"p99", row.p99 / 1e3},
                         {"p99.9", row.p999 / 1e3},
                         {"max", row.worst / 1e3}};
  value["own_lag_p99_ms"] = row.own_lag_p99 / 1e3;
  return value;
}

std::string load_csv(std::span<const LoadRow> rows) {
  std::string text = "rate,concurrency,seconds,sent,ok,lost,duplicated,connections_lost,late,wrong";
  // From 1 on: 0 is none.
  for (std::size_t i = 1; i < kReasonCount; ++i) text += column(",degraded_", name_of_reason(i));
  for (std::size_t i = 1; i < kFaultCodeCount; ++i) text += column(",error_", name_of_fault(i));
  for (std::size_t i = 1; i < kReasonCount; ++i) text += column(",unsent_", name_of_reason(i));
  text += ",goodput,p50_ms,p90_ms,p99_ms,p99.9_ms,max_ms,own_lag_p99_ms\n";
  for (const LoadRow& row : rows) {
    text += format_short(row.rate) + "," + std::to_string(row.concurrency) + "," +
            format_short(row.seconds);
    for (const std::uint64_t count :
         {row.sent, row.ok, row.lost, row.duplicated, row.broken, row.late, row.wrong})
      text += "," + std::to_string(count);
    for (std::size_t i = 1; i < kReasonCount; ++i) text += "," + std::to_string(row.degraded_by[i]);
    for (std::size_t i = 1; i < kFaultCodeCount; ++i)
      text += "," + std::to_string(row.faults_by[i]);
    for (std::size_t i = 1; i < kReasonCount; ++i) text += "," + std::to_string(row.unsent_by[i]);
    text += "," + format_fixed(row.goodput, 2);
    for (const double us : {row.p50, row.p90, row.p99, row.p999, row.worst, row.own_lag_p99})
      text += "," + format_fixed(us / 1e3, 3);
    text += "\n";
  }
  return text;
}

std::string request_csv_header() {
  return "rate,intended_ms,sent_ms,latency_ms,connection,sample,end,why,exit,right\n";
}

std::string request_csv(const LoadPhase& phase, const LoadDriver::Result& result) {
  const auto ms = [](Clock::duration duration) {
    return format_fixed(microseconds(duration) / 1e3, 3);
  };
  std::string text;
  for (const LoadRecord& record : result.records) {
    const std::string why = record.end == LoadEnd::kFault    ? fault_name(record.code)
                            : record.reason == Reason::kNone ? ""
                                                             : reason_name(record.reason);
    text += format_short(phase.rate) + "," + ms(record.intended - phase.warmup) + ",";
    if (record.end != LoadEnd::kUnsent) text += ms(record.sent);
    text += ",";
    if (record.answered) text += ms(record.latency);
    text += "," + std::to_string(record.connection) + "," + std::to_string(record.sample) + "," +
            load_end_name(record.end) + "," + why + ",";
    if (record.exit >= 0)
      text += std::to_string(record.exit) + (record.right ? ",1" : ",0");
    else
      text += ",";
    text += "\n";
  }
  return text;
}

}  // namespace offramp::cli
