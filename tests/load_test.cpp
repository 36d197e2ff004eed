// Load on a node: what is sent, and what is counted. The command is in load_command_test.cpp.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/test_files.h"
#include "tests/test_nodes.h"
#include "tests/test_wait.h"
#include "tools/load_generator.h"
#include "tools/load_report.h"

namespace offramp::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::beside;
using test::eventually;
using test::FakeNode;
using test::HeldWork;
using test::SmallCascade;
using test::welcome_to;
using Thresholds = SmallCascade::Thresholds;

std::vector<LoadSample> samples_of(const SmallCascade& cascade, const LoadSampleOptions& options) {
  return make_load_samples(cascade.stages(), options, cascade.size(),
                           [&cascade](std::size_t index, std::span<float> input) {
                             std::copy_n(cascade.picture(index).data, input.size(), input.begin());
                           });
}

LoadSetup setup_for(const SmallCascade& cascade, const std::string& endpoint) {
  LoadSetup setup;
  setup.next = endpoint;
  setup.identity = link_identity(cascade.stages(), cascade.id(), 1);
  // What is slow on a busy machine is neither late nor lost.
  setup.deadline = seconds(30);
  setup.window = 64;
  return setup;
}

/// A node in this process, and what is needed to load it. With two stages it is a whole cascade.
struct Target {
  explicit Target(Thresholds thresholds, NodeOptions options = {.stage_count = 2})
      : cascade(thresholds), samples(samples_of(cascade, {})) {
    options.listen = "tcp://127.0.0.1:*";
    node.emplace(cascade.stages(), cascade.id(), options, nullptr, Log());
    setup = setup_for(cascade, node->endpoint());
  }

  LoadDriver::Result run(const LoadPhase& phase) const {
    LoadGenerator generator(setup, samples);
    generator.connect(seconds(60));
    return generator.run(phase);
  }

  SmallCascade cascade;
  std::vector<LoadSample> samples;
  std::optional<Node> node;
  LoadSetup setup;
};

std::size_t count_end(const LoadDriver::Result& result, LoadEnd end) {
  return static_cast<std::size_t>(std::ranges::count(result.records, end, &LoadRecord::end));
}

// ---- what is sent ----

TEST_CASE("samples are the tensors of undecided pictures and what the cascade says of them") {
  const SmallCascade cascade(Thresholds::kMixed);
  const auto undecided = static_cast<std::size_t>(std::ranges::count_if(
      cascade.expected(), [](const Decision& decision) { return decision.exit > 0; }));
  REQUIRE(undecided > 0);
  REQUIRE(undecided < cascade.size());
  const std::vector<LoadSample> samples = samples_of(cascade, {});
  REQUIRE(samples.size() == undecided);
  std::size_t next = 0;
  for (std::size_t i = 0; i < cascade.size(); ++i) {
    const Decision& expected = cascade.expected()[i];
    if (expected.exit == 0) continue;
    const LoadSample& sample = samples[next++];
    // f32 comes first: nothing is lost behind the cut.
    REQUIRE(sample.answers.size() == 4);
    CHECK(sample.answers[0].taken == expected.exit);
    CHECK(sample.answers[0].exits.at(1) == cascade.at_exit(i, 1));
    CHECK(sample.answers[0].exits.at(2) == cascade.at_exit(i, 2));
    CHECK(sample.answers[2].exits.at(1) == cascade.at_exit(i, 1));
    CHECK(sample.answers[2].exits.at(2) != cascade.at_exit(i, 2));
  }
  CHECK(samples_of(cascade, {.all = true}).size() == cascade.size());
  const std::vector<LoadSample> second = samples_of(cascade, {.cut = 2});
  CHECK(second.size() < samples.size());
  for (const LoadSample& sample : second) {
    REQUIRE(sample.answers.size() == 1);
    CHECK(sample.answers[0].taken == 2);
    CHECK(sample.tensor.shape == cascade.stages()[1].plan().carry_shape());
  }
}

TEST_CASE("samples that nobody would send are refused") {
  const SmallCascade cascade(Thresholds::kAll);
  const Error error = testing::error_of([&] { samples_of(cascade, {}); });
  CHECK(error.kind() == ErrorKind::kBadData);
  CHECK(std::string(error.what()).find("--all") != std::string::npos);
}

TEST_CASE("an answer is right at the cascade's exit, a degraded one at its own") {
  const SmallCascade cascade(Thresholds::kNone);
  const LoadSample sample = samples_of(cascade, {}).front();
  const LoadAnswers& answers = sample.answers.front();
  REQUIRE(answers.taken == 2);
  CHECK(right_answer(sample, answers.exits[2], false));
  CHECK(right_answer(sample, sample.answers.back().exits[2], false));
  CHECK_FALSE(right_answer(sample, answers.exits[1], false));
  CHECK(right_answer(sample, answers.exits[1], true));
  Decision other = answers.exits[2];
  other.label = (other.label + 1) % 7;
  CHECK_FALSE(right_answer(sample, other, false));
  other = answers.exits[2];
  other.probability += 0.2f;
  CHECK_FALSE(right_answer(sample, other, false));
  other = answers.exits[2];
  other.exit = 3;
  CHECK_FALSE(right_answer(sample, other, true));
}

// ---- what is counted ----

TEST_CASE("open loop: every request is answered once, as the cascade decides") {
  Target target(Thresholds::kMixed);
  target.setup.connections = 6;
  target.setup.threads = 2;
  const LoadPhase phase{.rate = 200, .warmup = milliseconds(200), .duration = seconds(1)};
  const LoadDriver::Result result = target.run(phase);
  // 240 of a Poisson process: six standard deviations.
  CHECK(result.records.size() > 145);
  CHECK(result.records.size() < 335);
  CHECK(count_end(result, LoadEnd::kOk) == result.records.size());
  CHECK(result.duplicated == 0);
  CHECK(result.broken == 0);
  CHECK(target.node->counters().requests == result.records.size());
  CHECK(std::ranges::all_of(result.records, &LoadRecord::right));
  CHECK(std::ranges::is_sorted(result.records, {}, &LoadRecord::intended));
  std::vector<bool> used(6);
  for (const LoadRecord& record : result.records) {
    used.at(record.connection) = true;
    CHECK(record.sent >= Clock::duration::zero());
    CHECK(record.latency >= record.sent);
  }
  CHECK(std::ranges::all_of(used, [](bool one) { return one; }));

  const LoadRow row(phase, result, target.setup.deadline);
  const auto counted = static_cast<std::size_t>(std::ranges::count_if(
      result.records, [](const LoadRecord& one) { return one.intended >= milliseconds(200); }));
  CHECK(row.sent == counted);
  CHECK(row.sent < result.records.size());
  CHECK(row.ok_in_time == counted);
  CHECK(row.goodput == static_cast<double>(counted));
  CHECK(row.keeps_up());
  CHECK(row.p50 <= row.p90);
  CHECK(row.p90 <= row.p99);
  CHECK(row.p999 <= row.worst);
}

TEST_CASE("uniform arrivals are as many as were asked for, however many threads send") {
  Target target(Thresholds::kNone);
  target.setup.arrivals = Arrivals::kUniform;
  target.setup.connections = 3;
  target.setup.threads = 3;
  const LoadDriver::Result result = target.run({.rate = 90, .duration = seconds(1)});
  REQUIRE(result.records.size() == 90);
  for (std::size_t i = 0; i < 90; ++i)
    CHECK(std::abs(std::chrono::duration<double>(result.records[i].intended).count() -
                   static_cast<double>(i) / 90) < 1e-6);
}

TEST_CASE("random arrivals are those of their seed") {
  Target target(Thresholds::kNone);
  const auto arrivals = [&target](std::uint64_t seed) {
    target.setup.seed = seed;
    std::vector<Clock::duration> times;
    for (const LoadRecord& one : target.run({.rate = 100, .duration = milliseconds(300)}).records)
      times.push_back(one.intended);
    return times;
  };
  const std::vector<Clock::duration> first = arrivals(1);
  CHECK(first.size() > 3);
  CHECK(arrivals(1) == first);
  CHECK(arrivals(2) != first);
}

TEST_CASE("closed loop: never more under way than was said, and always some") {
  Target target(Thresholds::kNone);
  target.setup.connections = 2;
  target.setup.threads = 2;
  const LoadDriver::Result result = target.run({.concurrency = 5, .duration = milliseconds(500)});
  CHECK(result.records.size() > 5);
  CHECK(count_end(result, LoadEnd::kOk) == result.records.size());
  // +1 where a request begins, -1 where it ends.
  std::vector<std::pair<Clock::duration, int>> changes;
  for (const LoadRecord& record : result.records) {
    changes.emplace_back(record.intended, 1);
    changes.emplace_back(record.intended + record.latency, -1);
  }
  std::ranges::sort(changes);
  int away = 0, most = 0;
  for (const auto& [time, change] : changes) most = std::max(most, away += change);
  CHECK(most <= 5);
  CHECK(most >= 2);
}

TEST_CASE("measurements one after the other do not mix") {
  Target target(Thresholds::kMixed);
  LoadGenerator generator(target.setup, target.samples);
  generator.connect(seconds(60));
  std::size_t sent = 0;
  for (const double rate : {50.0, 100.0, 150.0}) {
    const LoadDriver::Result result = generator.run({.rate = rate, .duration = milliseconds(400)});
    CHECK(count_end(result, LoadEnd::kOk) == result.records.size());
    CHECK(result.duplicated == 0);
    sent += result.records.size();
  }
  CHECK(target.node->counters().requests == sent);
}

TEST_CASE("degraded answers are counted by reason, and checked at the exit that they come from") {
  // The edge alone.
  const Target target(Thresholds::kNone, {});
  const LoadPhase phase{.rate = 100, .duration = milliseconds(500)};
  const LoadDriver::Result result = target.run(phase);
  const LoadRow row(phase, result, target.setup.deadline);
  CHECK(row.sent > 0);
  CHECK(row.degraded_by[static_cast<std::size_t>(Reason::kNoNext)] == row.sent);
  CHECK(row.wrong == 0);
  CHECK(row.goodput == 0.0);
  CHECK_FALSE(row.keeps_up());
  CHECK(load_details(row).find("degraded: no next tier") != std::string::npos);
  CHECK(load_json(row).at("degraded").at("no_next_tier") == row.sent);
}

TEST_CASE("answers that are not the cascade's are wrong") {
  Target target(Thresholds::kNone);
  for (LoadSample& sample : target.samples)
    for (LoadAnswers& answers : sample.answers) answers.exits[2].label ^= 1;
  const LoadPhase phase{.rate = 100, .duration = milliseconds(300)};
  const LoadRow row(phase, target.run(phase), target.setup.deadline);
  CHECK(row.sent > 0);
  CHECK(row.wrong == row.sent);
}

TEST_CASE("requests that a node refuses are errors, by code") {
  HeldWork work;
  Target target(Thresholds::kNone, {.stage_count = 2, .before_compute = [&work] { work.wait(); }});
  target.setup.deadline = seconds(1);
  LoadGenerator generator(target.setup, target.samples);
  generator.connect(seconds(60));
  // What waits behind the first request is too late when its turn comes.
  std::jthread release = beside([&] {
    CHECK(eventually([&] { return target.node->counters().requests >= 3; }));
    std::this_thread::sleep_for(milliseconds(1100));
    work.hold = false;
  });
  const LoadPhase phase{.rate = 100, .duration = milliseconds(200)};
  const LoadRow row(phase, generator.run(phase), target.setup.deadline);
  release.join();
  CHECK(row.faults_by[static_cast<std::size_t>(FaultCode::kExpired)] > 0);
  CHECK(row.ok + row.faults() + row.lost == row.sent);
  CHECK(row.late > 0);
  CHECK(load_json(row).at("errors").contains("expired"));
  CHECK(load_details(row).find("errors: expired") != std::string::npos);
}

TEST_CASE("a device sends no more than its window") {
  HeldWork work;
  Target target(Thresholds::kNone, {.stage_count = 2, .before_compute = [&work] { work.wait(); }});
  target.setup.connections = 2;
  target.setup.window = 3;
  target.setup.arrivals = Arrivals::kUniform;
  LoadGenerator generator(target.setup, target.samples);
  generator.connect(seconds(60));
  std::uint64_t held_up = 0;
  std::jthread release = beside([&] {
    CHECK(eventually([&] { return target.node->counters().requests == 6; }));
    std::this_thread::sleep_for(milliseconds(200));
    held_up = target.node->counters().requests;
    work.hold = false;
  });
  const LoadPhase phase{.rate = 100, .duration = milliseconds(500)};
  const LoadRow row(phase, generator.run(phase), target.setup.deadline);
  release.join();
  CHECK(held_up == 6);
  CHECK(row.requests() == 50);
  CHECK(row.sent >= 6);
  CHECK(row.ok == row.sent);
  CHECK(row.unsent_by[static_cast<std::size_t>(Reason::kOverloaded)] == row.unsent());
  CHECK(row.unsent() > 0);
}

TEST_CASE("answers after the deadline are late and no goodput") {
  Target target(Thresholds::kNone, {.stage_count = 2, .before_compute = [] {
                                      std::this_thread::sleep_for(milliseconds(150));
                                    }});
  target.setup.deadline = milliseconds(120);
  const LoadPhase phase{.rate = 5, .duration = seconds(1)};
  const LoadRow row(phase, target.run(phase), target.setup.deadline);
  CHECK(row.late > 0);
  CHECK(row.late == row.ok);
  CHECK(row.goodput == 0.0);
  CHECK(row.sent == row.ok + row.faults());
}

TEST_CASE("answers that come twice, and those that never come") {
  const SmallCascade cascade(Thresholds::kNone);
  // Answers every second request, and that three times.
  const FakeNode node(
      [requests = 0](const Message& message, const Bytes&, const FakeNode::Caller& caller) mutable {
        if (const auto* hello = std::get_if<Hello>(&message))
          caller.reply(welcome_to(*hello, 64));
        else if (const auto* ping = std::get_if<Ping>(&message))
          caller.reply(Pong{.sequence = ping->sequence});
        const auto* handoff = std::get_if<Handoff>(&message);
        if (handoff == nullptr || ++requests % 2 == 0) return;
        for (int i = 0; i < 3; ++i)
          caller.reply(Verdict{.request = handoff->request,
                               .decision = {.label = 6, .probability = 1, .entropy = 0, .exit = 2},
                               .tier = Tier::kCloud});
      });
  const std::vector<LoadSample> samples = samples_of(cascade, {});
  LoadSetup setup = setup_for(cascade, node.endpoint());
  setup.deadline = milliseconds(500);
  setup.arrivals = Arrivals::kUniform;
  LoadGenerator generator(setup, samples);
  generator.connect(seconds(60));
  const LoadPhase phase{.rate = 40, .duration = milliseconds(500)};
  const LoadRow row(phase, generator.run(phase), setup.deadline);
  CHECK(row.sent == 20);
  CHECK(row.ok == 10);
  CHECK(row.lost == 10);
  CHECK(row.duplicated == 20);
  CHECK(row.wrong > 0);
}

}  // namespace
}  // namespace offramp::cli
