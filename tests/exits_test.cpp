// When an exit answers: criteria, temperatures, rules in model files and on the command line.
#include "engine/exits.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "engine/error.h"
#include "kernels/kernels.h"
#include "tests/test_files.h"
#include "tests/test_graphs.h"
#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;

constexpr Criterion kAll[] = {Criterion::kEntropy, Criterion::kProbability, Criterion::kMargin,
                              Criterion::kPatience};

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Said {
  Decision decision;
  std::vector<float> probabilities;
};

Said say(const std::vector<float>& logits, float temperature = 1.0f) {
  Said said{.decision = {}, .probabilities = std::vector<float>(logits.size())};
  said.decision = decide(best_kernels(), logits, 0, said.probabilities, temperature);
  return said;
}

float doubt_of(Criterion criterion, const Said& said, const Streak& streak = {1, 1}) {
  return doubt(criterion, said.decision, said.probabilities, streak);
}

TEST_CASE("criteria have names of their own") {
  for (const Criterion criterion : kAll)
    CHECK(criterion_named(criterion_name(criterion)) == criterion);
  CHECK(!criterion_named("certainty"));
}

TEST_CASE("the doubt of each criterion") {
  const Said said = say({std::log(0.5f), std::log(0.2f), std::log(0.3f)});
  const double entropy =
      -(0.5 * std::log(0.5) + 0.2 * std::log(0.2) + 0.3 * std::log(0.3)) / std::log(3.0);
  CHECK(doubt_of(Criterion::kEntropy, said) == doctest::Approx(entropy));
  CHECK(doubt_of(Criterion::kProbability, said) == doctest::Approx(0.5));
  CHECK(doubt_of(Criterion::kMargin, said) == doctest::Approx(0.8));
  CHECK(doubt_of(Criterion::kPatience, said, {.label = 0, .exits = 1}) == 1.0f);
  CHECK(doubt_of(Criterion::kPatience, said, {.label = 0, .exits = 4}) == 0.25f);

  const Said certain = say({0.0f, 200.0f, 0.0f});
  for (const Criterion criterion :
       {Criterion::kEntropy, Criterion::kProbability, Criterion::kMargin})
    CHECK(doubt_of(criterion, certain) == 0.0f);
  // Two that are alike: nothing is known about which.
  CHECK(doubt_of(Criterion::kMargin, say({3.0f, 3.0f, -9.0f})) == doctest::Approx(1.0));
}

TEST_CASE("numbers that are not finite are never sure, whatever the criterion") {
  for (const float bad : {NAN, INFINITY}) {
    const Said said = say({0.0f, bad, 1.0f});
    Streak streak{.label = said.decision.label, .exits = 7};
    streak.add(said.decision);
    CHECK(streak.exits == 0);
    for (const Criterion criterion : kAll)
      CHECK_FALSE(ExitRule{.threshold = 1.0f, .criterion = criterion}.sure(
          doubt_of(criterion, said, streak)));
  }
}

TEST_CASE("a temperature changes probabilities as dividing the logits does, and no label") {
  const std::vector<float> logits = {1.0f, 2.5f, -0.75f, 2.0f};
  for (const float temperature : {0.5f, 1.0f, 2.0f, 3.7f}) {
    std::vector<float> divided;
    for (const float logit : logits) divided.push_back(logit / temperature);
    const Said wanted = say(divided), found = say(logits, temperature);
    CHECK(found.decision == wanted.decision);
    CHECK(found.probabilities == wanted.probabilities);
    CHECK(found.decision.label == 1);
  }
  CHECK(say(logits, 2.0f).decision.entropy > say(logits).decision.entropy);
}

TEST_CASE("a streak is of exits in a row") {
  Streak streak;
  std::vector<int> counts;
  for (const int label : {3, 3, 3, 1, 3, 3}) {
    streak.add({.label = label, .entropy = 0.5f});
    counts.push_back(streak.exits);
  }
  CHECK(counts == std::vector<int>{1, 2, 3, 1, 1, 2});
}

/// What every exit says of every picture, without a cascade.
struct AllExits {
  AllExits(std::span<const Stage> stages, View input) {
    std::vector<Workspace> workspaces;  // the next exit reads what lies in the one before
    for (const Stage& stage : stages) {
      workspaces.push_back(stage.plan().make_workspace());
      const Plan::Outputs outputs = stage.plan().run(input, workspaces.back());
      for (int n = 0; n < input.batch; ++n) {
        const View logits = outputs.logits.slice(n, 1);
        Said one{.decision = {}, .probabilities = std::vector<float>(logits.elements())};
        one.decision = decide(stage.plan().kernels(), {logits.data, logits.elements()},
                              stage.exit(), one.probabilities, stage.rule().temperature);
        said.push_back(one);
      }
      input = outputs.carry;
    }
  }
  std::vector<Said> said;  ///< [exits][pictures]
};

TEST_CASE("a cascade goes by each exit's own rule, picture by picture") {
  test::GraphBuilder builder({3, 12, 11}, 11);
  test::build_random_network(builder, 4);
  const Model model = test::make_model(builder.graph());
  const int count = 40;
  const auto pictures =
      test::random_floats(builder.random(), builder.shape(0).elements() * at(count), -3.0f, 3.0f);
  const View view{pictures.data(), count, builder.shape(0)};
  for (const Criterion criterion : kAll) {
    CAPTURE(std::string(criterion_name(criterion)));
    std::vector<ExitRule> rules(4, {.criterion = criterion, .temperature = 1.5f});
    AllExits all(compile_stages(model, rules, {.max_batch = count}), view);
    // The middle of each exit's doubts; for patience, where two agree.
    for (int e = 0; e < 3; ++e) {
      std::vector<float> doubts;
      for (int n = 0; n < count; ++n)
        doubts.push_back(doubt_of(criterion, all.said[at(e * count + n)], {.exits = 2}));
      std::nth_element(doubts.begin(), doubts.begin() + count / 2, doubts.end());
      rules[at(e)].threshold = criterion == Criterion::kPatience ? 0.6f : doubts[at(count / 2)];
    }
    const std::vector<Stage> stages = compile_stages(model, rules, {.max_batch = count});
    CascadeMemory memory = make_cascade_memory(stages);
    std::vector<Decision> decisions(at(count));
    run_cascade(stages, view, memory, decisions);
    run_cascade(stages, view, memory, decisions);  // nothing is left of the pictures before
    std::vector<int> taken(4, 0);
    for (int n = 0; n < count; ++n) {
      int exit = 0, agreeing = 0, label = -1;
      for (;; ++exit) {
        const Said& said = all.said[at(exit * count + n)];
        agreeing = said.decision.label == label ? agreeing + 1 : 1;
        label = said.decision.label;
        if (exit == 3 || doubt_of(criterion, said, {.label = label, .exits = agreeing}) <
                             rules[at(exit)].threshold)
          break;
      }
      CHECK(decisions[at(n)] == all.said[at(exit * count + n)].decision);
      ++taken[at(exit)];
    }
    // The first exit has nobody to agree with.
    CHECK((taken[0] == 0) == (criterion == Criterion::kPatience));
    CHECK(taken[1] > 0);
    CHECK(taken[3] > 0);
  }
}

TEST_CASE("rules out of range are refused, and patience between tiers") {
  test::GraphBuilder builder({3, 12, 11}, 3);
  test::build_random_network(builder, 2);
  const Model model = test::make_model(builder.graph());
  const auto compiled = [&](std::vector<ExitRule> rules) {
    return compile_stages(model, rules, PlanOptions{});
  };
  CHECK_THROWS_WITH_AS(compiled({{}}), doctest::Contains("wanted 2"), Error);
  for (const float bad : {0.0f, -1.0f, 101.0f, static_cast<float>(NAN)}) {
    CHECK_THROWS_WITH_AS(compiled({{}, {.temperature = bad}}), doctest::Contains("temperatures"),
                         Error);
  }
  CHECK_THROWS_WITH_AS(compiled({{.threshold = NAN}, {}}), doctest::Contains("thresholds"), Error);
  const ExitRule patience{.threshold = 0.6f, .criterion = Criterion::kPatience};
  CHECK_THROWS_WITH_AS(check_independent(compiled({patience, {}})), doctest::Contains("exit 1"),
                       Error);
  CHECK_NOTHROW(check_independent(compiled({{}, patience})));  // the last one is not asked
}

// ---- in the model file ----

const Json kRules = Json::parse(R"([
  {"criterion": "margin", "threshold": 0.25, "temperature": 1.5},
  {"criterion": "entropy", "temperature": 2}])");

Json target(const std::string& name) {
  return {
      {"name", name},
      {"points", 0.5},
      {"confidence", 0.9},
      {"rules", kRules},
      {"heldout", {{"pictures", 4000}, {"loss", -0.1}, {"shares", {0.75, 0.25}}, {"cost", 0.5}}}};
}

TestModel with(const std::string& key, const Json& value) {
  TestModel model = small_model();
  model.metadata[key] = value.dump();
  return model;
}

void check_refused(const TestModel& model, const std::string& found) {
  const Bytes file = model.signed_file();
  const Error error = error_of([&] { (void)parse_model(file, "m"); });
  INFO(error.what());
  CHECK(error.kind() == ErrorKind::kBadModel);
  CHECK(std::string(error.what()).find(found) != std::string::npos);
}

TEST_CASE("a model file's rules stand before the thresholds of its exits") {
  const TempDir dir;
  const Model plain = load_model(dir.write("plain", small_model().signed_file()));
  CHECK(plain.graph.exits[0].rule == ExitRule{.threshold = 0.5f});
  CHECK(plain.targets.empty());
  const Model model = load_model(dir.write("m", with("offramp.rules", kRules).signed_file()));
  CHECK(model.graph.exits[0].rule ==
        ExitRule{.threshold = 0.25f, .criterion = Criterion::kMargin, .temperature = 1.5f});
  CHECK(model.graph.exits[1].rule == ExitRule{.temperature = 2.0f});
}

TEST_CASE("targets of a model file") {
  const TempDir dir;
  const Json targets = Json::array({target("0.5"), target("x")});
  const Model model = load_model(dir.write("m", with("offramp.targets", targets).signed_file()));
  REQUIRE(model.targets.size() == 2);
  const Target& first = model.targets[0];
  CHECK(first.name == "0.5");
  CHECK(first.points == 0.5f);
  CHECK(first.confidence == 0.9f);
  CHECK(first.rules[0].criterion == Criterion::kMargin);
  CHECK(first.held_out.pictures == 4000);
  CHECK(first.held_out.loss == -0.1f);
  CHECK(first.held_out.shares == std::vector<float>{0.75f, 0.25f});
  CHECK(first.held_out.cost == 0.5f);
  // They are there to be chosen: nothing else has changed.
  CHECK(model.graph.exits[0].rule == ExitRule{.threshold = 0.5f});
}

TEST_CASE("rules and targets that make no sense are refused") {
  const auto rules = [](const char* path, const Json& value) {
    Json all = kRules;
    all[Json::json_pointer(path)] = value;
    return with("offramp.rules", all);
  };
  check_refused(with("offramp.rules", Json::array()), "2 rules");
  check_refused(with("offramp.rules", 3), "found 3");
  check_refused(rules("/0/criterion", "luck"), "'luck'");
  check_refused(rules("/0/criterion", 1), "criterion");
  check_refused(rules("/0/threshold", 1.5), "found 1.5");
  check_refused(rules("/0/temperature", 0), "0.01 to 100");
  check_refused(rules("/1/temperature", nullptr), "found null");
  check_refused(rules("/0/more", 1), "'more'");
  Json unlimited = kRules;
  unlimited[0].erase("threshold");
  check_refused(with("offramp.rules", unlimited), "'threshold'");

  const auto targets = [](const char* path, const Json& value) {
    Json all = Json::array({target("a"), target("b")});
    all[Json::json_pointer(path)] = value;
    return with("offramp.targets", all);
  };
  check_refused(with("offramp.targets", Json::object()), "targets");
  check_refused(with("offramp.targets", Json(101, target("a"))), "at most 100");
  check_refused(targets("/1/name", "a"), "'a' twice");
  check_refused(targets("/1/name", ""), "an empty one");
  check_refused(targets("/0/points", -1), "0 to 100");
  check_refused(targets("/0/confidence", 1.5), "0 to 1");
  check_refused(targets("/0/rules", Json::array()), "2 rules");
  check_refused(targets("/0/rules/0/threshold", 7), "found 7");
  check_refused(targets("/0/heldout/pictures", 0), "found 0");
  check_refused(targets("/0/heldout/shares", Json::array({1})), "2 numbers");
  check_refused(targets("/0/heldout/shares", Json::array({1, 7})), "0 to 1, found 7");
  check_refused(targets("/0/heldout/cost", 2), "found 2");
  check_refused(targets("/0/heldout/more", 2), "'more'");
  check_refused(targets("/0/more", 2), "'more'");
}

// ---- on the command line ----

TestModel model_with_targets() {
  Json all = target("all");
  all["rules"][0] = {{"criterion", "entropy"}, {"threshold", 1}, {"temperature", 1}};
  Json none = target("none");
  none["rules"][0]["threshold"] = 0;
  return with("offramp.targets", Json::array({target("0.5"), all, none}));
}

struct TargetSite : DataSite {
  TargetSite() : DataSite(model_with_targets()) {}

  Json classify(std::vector<std::string> options) const {
    options.insert(options.begin(), {"classify", "-m", model, "--json", picture});
    const Finished finished = offramp(options);
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
    return Json::parse(finished.out);
  }

  Json eval(std::vector<std::string> options) const {
    options.insert(options.begin(), {"eval", "-m", model, "--data", data, "--json"});
    const Finished finished = offramp(options);
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
    return Json::parse(finished.out);
  }
};

TEST_CASE("a target is a name for rules of the model") {
  const TargetSite site;
  CHECK(site.classify({"--target", "all"}).at("exit") == "first");
  CHECK(site.classify({"--target", "none"}).at("exit") == "last");
  const Json eval = site.eval({"--target", "0.5"});
  CHECK(eval.at("target") == "0.5");
  CHECK(eval.at("criteria") == Json::array({"margin"}));
  CHECK(eval.at("temperatures") == Json::array({1.5, 2.0}));
  CHECK(eval.at("thresholds") == Json::array({0.25}));
  const Finished inspected = offramp({"inspect", site.model});
  CHECK(inspected.out.find("Targets") != std::string::npos);
  const Json json = Json::parse(offramp({"inspect", site.model, "--json"}).out);
  REQUIRE(json.at("targets").size() == 3);
  CHECK(json.at("targets")[1].at("name") == "all");
  CHECK(json.at("targets")[0].at("heldout").at("cost") == 0.5);
}

TEST_CASE(
    "criteria take thresholds of their own, and eval checks what the cascade does with them") {
  const TargetSite site;
  for (const char* criterion : {"entropy", "probability", "margin", "patience"}) {
    CAPTURE(criterion);
    const Json all = site.eval({"--criterion", criterion, "--thresholds", "1", "--sweep"});
    CHECK(all.at("criteria") == Json::array({criterion}));
    CHECK(all.at("sweep").size() == 15);
    // With two exits patience has nothing to go by before the last.
    const double share = all.at("exits")[0].at("share").get<double>();
    CHECK(share == (std::string(criterion) == "patience" ? 0.0 : 1.0));
    CHECK(site.eval({"--criterion", criterion, "--thresholds", "0"}).at("exits")[1].at("share") ==
          1.0);
  }
}

TEST_CASE("rules that say two things, or nothing that can be done, are refused") {
  const TargetSite site;
  const auto refused = [&](std::vector<std::string> options, const std::string& names) {
    options.insert(options.begin(), {"classify", "-m", site.model, site.picture});
    check_refusal(offramp(options), kUsage, names);
  };
  refused({"--target", "0.5", "--thresholds", "0.1"}, "--thresholds");
  refused({"--target", "0.5", "--criterion", "margin"}, "--criterion");
  refused({"--target", "0.7"}, "one of 0.5, all, none");
  refused({"--criterion", "margin"}, "--thresholds");
  refused({"--criterion", "luck", "--thresholds", "0.1"}, "'luck'");
  refused({"--criterion", "margin", "--thresholds", "1.05"}, "margin");
  refused({"--criterion", "margin", "--thresholds", "0.5", "--nats"}, "--nats");
  const std::string plain = site.file("p", small_model().signed_file());
  check_refusal(offramp({"classify", "-m", plain, "--target", "0.5", site.picture}), kUsage,
                "calibrate.py");
  check_refusal(offramp({"eval", "-m", site.model, "--data", site.data, "--criterion", "margin",
                         "--thresholds", "0.5", "--sweep", "--nats"}),
                kUsage, "--nats");
  const std::vector<std::string> patience = {"-m",       site.model,     "--criterion",
                                             "patience", "--thresholds", "0.6"};
  std::vector<std::string> run = {"run", "--next", "127.0.0.1:1", site.picture};
  run.insert(run.end(), patience.begin(), patience.end());
  check_refusal(offramp(run), kUsage, "patience");
  std::vector<std::string> node = {"node", "--tier", "edge", "--listen", "127.0.0.1:0"};
  node.insert(node.end(), patience.begin(), patience.end());
  check_refusal(offramp(node), kUsage, "patience");
}

TEST_CASE("nodes with a target decide as eval does") {
  const TargetSite site;
  RunningNode edge(site.folder, site.model, "edge", {"--target", "0.5"});
  const std::string run = site.path("run.csv"), eval = site.path("eval.csv");
  const Finished device =
      offramp({"run", "-m", site.model, "--next", edge.address, "--data", site.data, "--target",
               "0.5", "--deadline", "20s", "--wait", "20s", "--json", "--decisions", run});
  CAPTURE(device.err);
  REQUIRE(device.code == 0);
  site.eval({"--target", "0.5", "--decisions", eval});
  CHECK(text_of(run) == text_of(eval));
}

}  // namespace
}  // namespace offramp::testing
