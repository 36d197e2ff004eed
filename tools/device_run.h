// The device's side of `run` and `demo`: one picture after the other through all tiers.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "net/device.h"
#include "net/log.h"
#include "net/zmq_channel.h"
#include "tools/crossings.h"
#include "tools/history.h"
#include "tools/options.h"
#include "tools/output.h"

namespace offramp::cli {

struct DeviceSetup {
  const Model& model;
  std::span<const Stage> stages;
  EntropyUnit unit;
  std::vector<ZmqEndpoint> next;  ///< none with kLocalOnly
  DeviceOptions options;
  Log log{};                   ///< gets what becomes of the links
  History* history = nullptr;  ///< where to keep what happens
};

/// Runs pictures 0..count-1 through `source`; when options.duration is set, again and again. Ids
/// count up, `id % count` is the picture. `seen` gets each outcome in order of id, as soon as all
/// earlier ones are known. Throws Error{kUsage} for a model with a single exit, and what
/// Device::run and History throw. Returns what the audits have come to.
AuditCounts run_device(const DeviceSetup& setup, std::size_t count, const Device::Source& source,
                       const std::function<void(std::size_t id, const Outcome&)>& seen);

/// "ok", "degraded(late)"; "error(late)" when there is no answer; "local" when the policy wanted
/// the device's own.
std::string status_of(const Outcome& outcome);

/// In all tiers together.
std::uint64_t compute_us(const Outcome& outcome);

/// One line a picture.
class OutcomeTable {
 public:
  OutcomeTable(const DeviceSetup& setup, const std::vector<std::string>& names);
  std::string header() const { return table_.header(); }
  std::string line(const std::string& name, const Outcome& outcome) const;

 private:
  const DeviceSetup& setup_;
  Table table_;
};

nlohmann::ordered_json outcome_json(const DeviceSetup& setup, const std::string& name,
                                    const Outcome& outcome);

/// What came of all pictures.
class RunSummary {
 public:
  explicit RunSummary(const DeviceSetup& setup);
  ~RunSummary();

  /// `label` is the right answer where it is known: for all pictures or for none.
  void add(const Outcome& outcome, std::optional<int> label);

  void set(const AuditCounts& audits) { audits_ = audits; }

  std::string text() const;
  nlohmann::ordered_json json() const;
  /// One line about answers that are not the whole cascade's, though they were to be; none when
  /// there are none.
  std::optional<std::string> complaint() const;

 private:
  /// Those who were answered at the same place in the same way.
  struct Group;

  Group& group_of(const Outcome& outcome);

  const DeviceSetup& setup_;
  std::size_t pictures_ = 0;
  std::vector<Group> groups_;
  std::vector<double> total_us_;
  std::uint64_t sent_bytes_ = 0;
  std::size_t sent_pictures_ = 0;
  std::vector<Crossing> crossings_;  ///< [cuts], the first is the device's
  double macs_ = 0.0;                ///< computed for the answers given
  std::size_t degraded_ = 0, unanswered_ = 0;
  std::optional<std::size_t> right_;
  AuditCounts audits_;
};

}  // namespace offramp::cli
