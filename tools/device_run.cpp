#include "tools/device_run.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/error.h"
#include "net/node.h"
#include "tools/audits.h"
#include "tools/pictures.h"
#include "tools/statistics.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using enum Table::Align;

std::string place(const DeviceSetup& setup, const Outcome& outcome) {
  if (!outcome.answered) return "nobody";
  return std::string(tier_name(outcome.tier)) + "/" +
         setup.model.graph.exits.at(static_cast<std::size_t>(outcome.decision.exit)).name;
}

const std::string& class_name(const DeviceSetup& setup, const Outcome& outcome) {
  return setup.model.classes.at(static_cast<std::size_t>(outcome.decision.label));
}

// What the device has sent.
const char* sent_as(const Outcome& outcome) {
  if (outcome.hops.empty() || outcome.hops[0].sent_bytes == 0) return "nothing";
  return outcome.sent_picture ? "picture" : "tensor";
}

double macs_up_to(const DeviceSetup& setup, int exit) {
  double sum = 0.0;
  for (int i = 0; i <= exit; ++i) {
    sum += static_cast<double>(setup.stages[static_cast<std::size_t>(i)].macs());
  }
  return sum;
}

}  // namespace

AuditCounts run_device(const DeviceSetup& setup, std::size_t count, const Device::Source& source,
                       const std::function<void(std::size_t id, const Outcome&)>& seen) {
  if (setup.stages.size() < 2) {
    throw Error(ErrorKind::kUsage, setup.model.name +
                                       ": wanted a model with two exits or more to split among "
                                       "tiers, found one exit");
  }
  ZmqChannelOptions channel;
  channel.window = std::max(channel.window, setup.options.window);
  Device device(setup.stages, setup.model.id, setup.options,
                zmq_nodes(setup.next, link_identity(setup.stages, setup.model.id, 1), channel),
                setup.log);
  // Known, but not shown yet; none for a picture that could not be read.
  std::map<std::size_t, std::optional<Outcome>> settled;
  std::size_t shown = 0;
  const auto settle = [&](std::size_t id, std::optional<Outcome> outcome) {
    settled.emplace(id, std::move(outcome));
    for (; !settled.empty() && settled.begin()->first == shown; ++shown) {
      if (const auto& first = settled.begin()->second) seen(shown, *first);
      settled.erase(settled.begin());
    }
  };
  device.run(
      setup.options.duration ? std::numeric_limits<std::size_t>::max() : count,
      [&](std::size_t id, std::span<float> input) {
        const bool readable = source(id, input);
        if (!readable)
          settle(id, std::nullopt);
        else if (setup.history != nullptr)
          setup.history->begun(id, id % count);
        return readable;
      },
      [&](std::size_t id, const Outcome& outcome) {
        if (setup.history != nullptr) setup.history->answered(id, id % count, outcome);
        settle(id, outcome);
      });
  return device.audits();
}

std::string status_of(const Outcome& outcome) {
  if (outcome.local) return "local";
  if (outcome.degraded == Reason::kNone) return "ok";
  return std::string(outcome.answered ? "degraded(" : "error(") + reason_name(outcome.degraded) +
         ")";
}

std::uint64_t compute_us(const Outcome& outcome) {
  std::uint64_t sum = 0;
  for (const Hop& hop : outcome.hops) sum += hop.compute_us;
  return sum;
}

OutcomeTable::OutcomeTable(const DeviceSetup& setup, const std::vector<std::string>& names)
    : setup_(setup),
      table_({{"PICTURE", kLeft, name_width(names)},
              {"CLASS", kLeft, class_width(setup.model)},
              {"PROB", kRight, 8},
              {"TIER/EXIT", kLeft, 12},
              {setup.unit.nats ? "NATS" : "ENTROPY", kRight, 7},
              {"SENT BYTES", kRight, 10},
              {"COMPUTE", kRight, 8},
              {"WIRE", kRight, 8},
              {"TOTAL", kRight, 8},
              {"STATUS", kLeft, 6}}) {}

std::string OutcomeTable::line(const std::string& name, const Outcome& outcome) const {
  const Decision& decision = outcome.decision;
  const bool answered = outcome.answered;
  return table_.line(
      {name, answered ? class_name(setup_, outcome) : "-",
       answered ? format_percent(static_cast<double>(decision.probability)) : "-",
       place(setup_, outcome),
       answered ? format_entropy(setup_.unit.shown(static_cast<double>(decision.entropy))) : "-",
       format_grouped(outcome.bytes_sent()), format_ms(static_cast<double>(compute_us(outcome))),
       format_ms(static_cast<double>(outcome.wire_us)),
       format_ms(static_cast<double>(outcome.total_us)), status_of(outcome)},
      outcome.degraded == Reason::kNone ? Style::kPlain : Style::kWarn);
}

Json outcome_json(const DeviceSetup& setup, const std::string& name, const Outcome& outcome) {
  const Decision& decision = outcome.decision;
  const auto ms = [](std::uint64_t us) { return static_cast<double>(us) / 1e3; };
  Json hops = Json::array();
  for (const Hop& hop : outcome.hops) {
    hops.push_back({{"tier", tier_name(hop.tier)},
                    {"queue_ms", ms(hop.queue_us)},
                    {"compute_ms", ms(hop.compute_us)},
                    {"wait_ms", ms(hop.wait_us)},
                    {"sent_bytes", hop.sent_bytes}});
  }
  const auto if_answered = [&](auto value) { return outcome.answered ? Json(value()) : Json(); };
  return {{"picture", name},
          {"class", if_answered([&] { return class_name(setup, outcome); })},
          {"label", if_answered([&] { return decision.label; })},
          {"probability", if_answered([&] { return decision.probability; })},
          {"tier", if_answered([&] { return tier_name(outcome.tier); })},
          {"exit", if_answered([&] {
             return setup.model.graph.exits.at(static_cast<std::size_t>(decision.exit)).name;
           })},
          {"entropy",
           if_answered([&] { return setup.unit.shown(static_cast<double>(decision.entropy)); })},
          {"unit", setup.unit.name()},
          {"status", status_of(outcome)},
          {"sent_as", sent_as(outcome)},
          {"sent_bytes", outcome.bytes_sent()},
          {"compute_ms", ms(compute_us(outcome))},
          {"wire_ms", ms(outcome.wire_us)},
          {"total_ms", ms(outcome.total_us)},
          {"hops", hops}};
}

struct RunSummary::Group {
  Group(std::string where, std::string how, int at_exit)
      : place(std::move(where)), status(std::move(how)), exit(at_exit) {}

  std::string place;
  std::string status;
  int exit;
  std::size_t count = 0, right = 0;
  double compute_us = 0.0, wire_us = 0.0, total_us = 0.0, sent_bytes = 0.0;

  double mean(double sum) const { return sum / static_cast<double>(count); }
};

RunSummary::RunSummary(const DeviceSetup& setup)
    : setup_(setup), crossings_(setup.stages.size() - 1) {}

RunSummary::Group& RunSummary::group_of(const Outcome& outcome) {
  const std::string where = place(setup_, outcome), status = status_of(outcome);
  const auto group = std::ranges::find_if(groups_, [&](const Group& candidate) {
    return candidate.place == where && candidate.status == status;
  });
  if (group != groups_.end()) return *group;
  const auto after = std::ranges::upper_bound(groups_, outcome.decision.exit, {}, &Group::exit);
  return *groups_.insert(after, Group(where, status, outcome.decision.exit));
}

void RunSummary::add(const Outcome& outcome, std::optional<int> label) {
  ++pictures_;
  Group& group = group_of(outcome);
  const bool right = label && outcome.answered && outcome.decision.label == *label;
  ++group.count;
  group.right += right ? 1 : 0;
  group.compute_us += static_cast<double>(cli::compute_us(outcome));
  group.wire_us += static_cast<double>(outcome.wire_us);
  group.total_us += static_cast<double>(outcome.total_us);
  group.sent_bytes += static_cast<double>(outcome.bytes_sent());
  total_us_.push_back(static_cast<double>(outcome.total_us));
  sent_bytes_ += outcome.bytes_sent();
  sent_pictures_ += outcome.sent_picture ? 1 : 0;
  for (std::size_t cut = 0; cut < std::min(outcome.hops.size(), crossings_.size()); ++cut) {
    const std::uint32_t bytes = outcome.hops[cut].sent_bytes;
    if (bytes > 0) crossings_[cut].add(bytes);
  }
  macs_ += macs_up_to(setup_, outcome.decision.exit);
  unanswered_ += outcome.answered ? 0 : 1;
  degraded_ += outcome.answered && outcome.degraded != Reason::kNone ? 1 : 0;
  if (label) right_ = right_.value_or(0) + (right ? 1 : 0);
}

RunSummary::~RunSummary() = default;

std::string RunSummary::text() const {
  std::vector<Table::Column> columns = {{"ANSWERED BY"}, {"PICTURES", kRight}, {"SHARE", kRight}};
  if (right_) columns.push_back({"ACCURACY", kRight});
  for (const char* title : {"SENT EACH", "COMPUTE", "WIRE", "TOTAL"}) {
    columns.push_back({title, kRight});
  }
  columns.push_back({"STATUS"});
  Table table(columns);
  const auto pictures = static_cast<double>(pictures_);
  for (const Group& group : groups_) {
    std::vector<std::string> cells = {group.place, format_grouped(group.count),
                                      format_percent(static_cast<double>(group.count) / pictures)};
    if (right_) cells.push_back(format_percent(group.mean(static_cast<double>(group.right))));
    cells.push_back(format_grouped(static_cast<std::uint64_t>(group.mean(group.sent_bytes))));
    cells.push_back(format_ms(group.mean(group.compute_us)));
    cells.push_back(format_ms(group.mean(group.wire_us)));
    cells.push_back(format_ms(group.mean(group.total_us)));
    cells.push_back(group.status);
    table.add(cells, group.status == "ok" ? Style::kPlain : Style::kWarn);
  }
  const double whole = macs_up_to(setup_, static_cast<int>(setup_.stages.size()) - 1) * pictures;
  const std::uint64_t raw = setup_.model.preprocess.input.elements() * pictures_;
  std::string text = table.text() + "\n";
  if (right_) {
    text += "accuracy  " + format_percent(static_cast<double>(*right_) / pictures) + "\n";
  }
  text += "time      " + format_times(distribution(total_us_)) + " a picture\n" + "compute   " +
          format_macs(macs_ / pictures) + " MACs a picture, " + format_percent(macs_ / whole) +
          " of the whole network\n" + "sent      " + format_grouped(sent_bytes_) +
          " bytes; the raw pictures are " + format_grouped(raw) + " bytes\n";
  if (sent_pictures_ > 0)
    text += "pictures  " + format_grouped(sent_pictures_) + " sent instead of their tensors\n";
  if (audits_.asked > 0) text += "audit     " + audit_text(audits_) + "\n";
  return text + crossings_text(setup_.stages, crossings_);
}

Json RunSummary::json() const {
  const auto pictures = static_cast<double>(pictures_);
  Json groups = Json::array();
  for (const Group& group : groups_) {
    Json value = {{"answered_by", group.place},
                  {"status", group.status},
                  {"pictures", group.count},
                  {"share", static_cast<double>(group.count) / pictures}};
    if (right_) value["accuracy"] = group.mean(static_cast<double>(group.right));
    value["mean_sent_bytes"] = group.mean(group.sent_bytes);
    value["mean_compute_ms"] = group.mean(group.compute_us) / 1e3;
    value["mean_wire_ms"] = group.mean(group.wire_us) / 1e3;
    value["mean_total_ms"] = group.mean(group.total_us) / 1e3;
    groups.push_back(value);
  }
  const Distribution total = distribution(total_us_);
  Json value = {{"model", setup_.model.name}, {"pictures", pictures_}};
  if (right_) value["accuracy"] = static_cast<double>(*right_) / pictures;
  value["degraded"] = degraded_;
  value["unanswered"] = unanswered_;
  value["groups"] = groups;
  value["total_ms"] = {
      {"mean", total.mean / 1e3}, {"p50", total.p50 / 1e3}, {"p99", total.p99 / 1e3}};
  value["mean_macs"] = macs_ / pictures;
  value["sent_bytes"] = sent_bytes_;
  value["sent_pictures"] = sent_pictures_;
  value["cuts"] = crossings_json(setup_.stages, crossings_);
  value["audit"] = audit_json(audits_);
  value["picture_bytes"] = setup_.model.preprocess.input.elements() * pictures_;
  return value;
}

std::optional<std::string> RunSummary::complaint() const {
  if (degraded_ + unanswered_ == 0) return std::nullopt;
  std::vector<std::string> reasons, next;
  for (const Group& group : groups_) {
    const bool told = std::ranges::find(reasons, group.status) != reasons.end();
    if (group.status != "ok" && group.status != "local" && !told) reasons.push_back(group.status);
  }
  for (const ZmqEndpoint& each : setup_.next) next.push_back(each.endpoint);
  return join(next, ", ") + ": wanted the answers of the whole cascade, found " +
         join(reasons, ", ") + " for " + format_grouped(degraded_ + unanswered_) + " of " +
         format_grouped(pictures_) + " pictures";
}

}  // namespace offramp::cli
