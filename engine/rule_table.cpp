#include "engine/rule_table.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/json_reader.h"

namespace offramp {
namespace {

using nlohmann::json;

constexpr std::size_t kMostTargets = 100;
constexpr int kMostPictures = 1'000'000'000;

ExitRule read_rule(const json& entry, bool last, const std::string& where) {
  JsonFields fields(entry, where);
  ExitRule rule;
  const std::string name = fields.text("criterion");
  const std::optional<Criterion> criterion = criterion_named(name);
  if (!criterion) {
    throw bad_model(where + ": criterion", "entropy, probability, margin or patience",
                    "'" + printable(name) + "'");
  }
  rule.criterion = *criterion;
  rule.temperature = fields.number("temperature", kLeastTemperature, kMostTemperature);
  if (last)
    fields.skip("threshold");  // it always answers
  else
    rule.threshold = fields.number("threshold", 0, 1);
  fields.finish();
  return rule;
}

Target::HeldOut read_held_out(const json& entry, std::size_t exits, const std::string& where) {
  JsonFields fields(entry, where);
  Target::HeldOut found;
  found.pictures = fields.integer("pictures", 1, kMostPictures);
  found.loss = fields.number("loss", -100, 100);
  found.cost = fields.number("cost", 0, 1);
  const json& shares = fields.list("shares");
  if (shares.size() != exits)
    throw bad_model(where + ": shares", std::to_string(exits) + " numbers", describe(shares));
  for (const json& share : shares) {
    const float part = json_number(share, where + ": shares");
    if (part < 0 || part > 1) throw bad_model(where + ": shares", "0 to 1", describe(share));
    found.shares.push_back(part);
  }
  fields.finish();
  return found;
}

Target read_target(const json& entry, std::size_t exits, const std::string& where) {
  JsonFields fields(entry, where);
  Target target;
  target.name = fields.text("name");
  target.points = fields.number("points", 0, 100);
  target.confidence = fields.number("confidence", 0, 1);
  target.rules = read_rules(fields.list("rules"), exits, where + ": rules");
  target.held_out = read_held_out(fields.object("heldout"), exits, where + ": heldout");
  fields.finish();
  return target;
}

}  // namespace

std::vector<ExitRule> read_rules(const json& list, std::size_t exits, const std::string& where) {
  if (!list.is_array() || list.size() != exits)
    throw bad_model(where, "a list of " + std::to_string(exits) + " rules", describe(list));
  std::vector<ExitRule> rules;
  for (std::size_t i = 0; i < exits; ++i)
    rules.push_back(read_rule(list[i], i + 1 == exits, where + ", exit " + std::to_string(i)));
  return rules;
}

std::vector<Target> read_targets(const json& list, std::size_t exits, const std::string& where) {
  if (!list.is_array() || list.size() > kMostTargets) {
    throw bad_model(where, "a list of at most " + std::to_string(kMostTargets) + " targets",
                    describe(list));
  }
  std::vector<Target> targets;
  for (std::size_t i = 0; i < list.size(); ++i) {
    Target target = read_target(list[i], exits, where + ", target " + std::to_string(i));
    if (std::ranges::find(targets, target.name, &Target::name) != targets.end())
      throw bad_model(where, "distinct names", "'" + printable(target.name) + "' twice");
    targets.push_back(std::move(target));
  }
  return targets;
}

const Target& find_target(const std::vector<Target>& targets, const std::string& name,
                          const std::string& model, const std::string& where) {
  const auto found = std::ranges::find(targets, name, &Target::name);
  if (found != targets.end()) return *found;
  if (targets.empty())
    throw Error(ErrorKind::kUsage,
                where +
                    ": wanted a model with targets (tools/calibrate.py makes them), found none "
                    "in " +
                    model);
  std::string names;
  for (const Target& each : targets) names += (names.empty() ? "" : ", ") + each.name;
  throw Error(ErrorKind::kUsage, where + ": wanted one of " + names + ", which " + model +
                                     " has, found '" + name + "'");
}

}  // namespace offramp
