// `offramp load`: what it sends, what it counts, and that it ends whatever the node does.

#include <doctest/doctest.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/test_command.h"
#include "tests/test_keys.h"
#include "tests/test_nodes.h"
#include "tools/load_generator.h"
#include "tools/load_report.h"

namespace offramp::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::SmallCascade;
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
  std::atomic<bool> hold{false};
  Target target(Thresholds::kNone, {.stage_count = 2, .before_compute = [&hold] {
                                      while (hold) std::this_thread::sleep_for(milliseconds(1));
                                    }});
  target.setup.deadline = seconds(1);
  LoadGenerator generator(target.setup, target.samples);
  generator.connect(seconds(60));
  hold = true;
  // What waits behind the first request is too late when its turn comes.
  std::thread release([&] {
    static_cast<void>(test::eventually([&] { return target.node->counters().requests >= 3; }));
    std::this_thread::sleep_for(milliseconds(1100));
    hold = false;
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
  std::atomic<bool> hold{false};
  Target target(Thresholds::kNone, {.stage_count = 2, .before_compute = [&hold] {
                                      while (hold) std::this_thread::sleep_for(milliseconds(1));
                                    }});
  target.setup.connections = 2;
  target.setup.window = 3;
  target.setup.arrivals = Arrivals::kUniform;
  LoadGenerator generator(target.setup, target.samples);
  generator.connect(seconds(60));
  hold = true;
  std::uint64_t held_up = 0;
  std::thread release([&] {
    static_cast<void>(test::eventually([&] { return target.node->counters().requests == 6; }));
    std::this_thread::sleep_for(milliseconds(200));
    held_up = target.node->counters().requests;
    hold = false;
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
  ZmqContext context;
  ZmqSocket router(context, ZMQ_ROUTER);
  router.set(ZMQ_LINGER, 0);
  REQUIRE(zmq_bind(router.get(), "tcp://127.0.0.1:*") == 0);
  char endpoint[64];
  std::size_t size = sizeof endpoint;
  REQUIRE(zmq_getsockopt(router.get(), ZMQ_LAST_ENDPOINT, endpoint, &size) == 0);
  std::atomic<bool> stop{false};
  // Answers every second request, and that three times.
  std::thread fake([&] {
    const DecodeLimits limits{.max_payload_bytes = 1 << 20, .max_classes = 7, .max_exits = 3};
    std::vector<Bytes> parts;
    std::size_t count = 0;
    int requests = 0;
    while (!stop) {
      wait_readable({{.socket = router.get()}}, Clock::now() + milliseconds(20));
      while (router.receive(parts, 3, count)) {
        const auto reply = [&](Message message) {
          const Frames frames = encode(std::move(message));
          router.send({parts[0], frames.header, frames.payload});
        };
        auto decoded = decode(parts[1], parts[2], limits);
        const Message& message = std::get<Message>(decoded);
        if (const auto* hello = std::get_if<Hello>(&message)) {
          reply(Welcome{.session = hello->session,
                        .model = hello->model,
                        .cut = hello->cut,
                        .shape = hello->shape,
                        .tier = Tier::kEdge,
                        .window = 64});
        } else if (const auto* ping = std::get_if<Ping>(&message)) {
          reply(Pong{.sequence = ping->sequence});
        } else if (const auto* handoff = std::get_if<Handoff>(&message)) {
          if (++requests % 2 == 0) continue;
          for (int i = 0; i < 3; ++i)
            reply(Verdict{.request = handoff->request,
                          .decision = {.label = 6, .probability = 1, .entropy = 0, .exit = 2},
                          .tier = Tier::kCloud});
        }
      }
    }
  });
  const std::vector<LoadSample> samples = samples_of(cascade, {});
  LoadSetup setup = setup_for(cascade, endpoint);
  setup.deadline = milliseconds(500);
  setup.window = 64;
  setup.arrivals = Arrivals::kUniform;
  LoadGenerator generator(setup, samples);
  generator.connect(seconds(60));
  const LoadPhase phase{.rate = 40, .duration = milliseconds(500)};
  const LoadRow row(phase, generator.run(phase), setup.deadline);
  stop = true;
  fake.join();
  CHECK(row.sent == 20);
  CHECK(row.ok == 10);
  CHECK(row.lost == 10);
  CHECK(row.duplicated == 20);
  CHECK(row.wrong > 0);
}

}  // namespace
}  // namespace offramp::cli

// ---- the command ----

namespace offramp::testing {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// A model, a picture that every exit but the last is made unsure of, and the command.
class Site {
 public:
  Site() {
    model = folder.write("model.safetensors", small_model().signed_file()).string();
    picture = folder.write("a.png", encode_png(random_picture(4, 4, 1))).string();
  }
  std::string path(const std::string& name) const { return (folder.path() / name).string(); }
  std::vector<std::string> load(const std::string& next, std::vector<std::string> more) const {
    more.insert(more.begin(), {"load", "--model", model, "--thresholds", "0", "--next", next});
    more.push_back(picture);
    return more;
  }

  TempDir folder;
  std::string model, picture;
};

std::size_t columns(const std::string& line) {
  return 1 + static_cast<std::size_t>(std::ranges::count(line, ','));
}

TEST_CASE("load: a row for each rate in text, JSON and CSV, a line for each request") {
  const Site site;
  const RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0"});
  const Finished finished = offramp(site.load(
      edge.address, {"--rate", "40,80", "--duration", "1s", "--warmup", "200ms", "--connections",
                     "5", "--deadline", "30s", "--wait", "60s", "--json", "--csv",
                     site.path("rates.csv"), "--requests", site.path("requests.csv")}));
  INFO(finished.err);
  REQUIRE(finished.code == 0);
  const Json json = Json::parse(finished.out);
  REQUIRE(json.at("rows").size() == 2);
  CHECK(json.at("connections") == 5);
  CHECK(json.at("keys") == 1);
  std::size_t sent = 0;
  for (const Json& row : json.at("rows")) {
    CHECK(row.at("sent") == row.at("ok"));
    CHECK(row.at("sent").get<int>() > 0);
    CHECK(row.at("lost") == 0);
    CHECK(row.at("wrong") == 0);
    CHECK(row.at("latency_ms").at("p50").get<double>() > 0.0);
    sent += row.at("sent").get<std::size_t>();
  }
  const std::vector<std::string> rates = lines(text_of(site.path("rates.csv")));
  REQUIRE(rates.size() == 3);
  CHECK(rates[1].starts_with("40,0,1,"));
  CHECK(rates[2].starts_with("80,0,1,"));
  for (const std::string& line : rates) CHECK(columns(line) == columns(rates[0]));
  const std::vector<std::string> requests = lines(text_of(site.path("requests.csv")));
  std::size_t counted = 0;
  for (const std::string& line : requests) {
    CHECK(columns(line) == columns(requests[0]));
    const bool warmup = line.find(",-") != std::string::npos;
    if (!warmup && line.find(",ok,") != std::string::npos) ++counted;
  }
  CHECK(counted == sent);

  const Finished text = offramp(
      site.load(edge.address, {"--concurrency", "3", "--duration", "300ms", "--wait", "60s"}));
  INFO(text.err);
  CHECK(text.code == 0);
  REQUIRE(lines(text.out).size() == 2);
  CHECK(lines(text.out)[0].find("GOODPUT") != std::string::npos);
  CHECK(lines(text.out)[1].find("3 away") != std::string::npos);
}

TEST_CASE("load: connections share the keys of a folder") {
  const Site site;
  namespace fs = std::filesystem;
  std::string allowed;
  fs::create_directory(site.path("many"));
  for (const char* name : {"a", "b"}) {
    const std::string file = site.path("many/" + std::string(name) + ".key");
    REQUIRE(offramp({"keygen", file}).code == 0);
    allowed += "device " + lines(text_of(file + ".pub")).at(0) + " " + name + "\n";
  }
  fs::copy(key_folder("device") + "/next.pub", site.path("many/next.pub"));
  fs::create_directory(site.path("edge-keys"));
  fs::copy(key_folder("edge") + "/self.key", site.path("edge-keys/self.key"));
  site.folder.write("edge-keys/allow", allowed);
  const RunningNode edge(site.folder, site.model, "edge",
                         {"--thresholds", "0", "--keys", site.path("edge-keys")});
  const auto load = [&](const char* connections) {
    return offramp(site.load(edge.address, {"--keys", site.path("many"), "--rate", "50",
                                            "--duration", "500ms", "--deadline", "30s", "--wait",
                                            "60s", "--json", "--connections", connections}));
  };
  const Finished some = load("100");
  INFO(some.err);
  CHECK(some.code == 0);
  CHECK(Json::parse(some.out).at("keys") == 2);
  check_refusal(load("129"), kUsage, "at least 3 keys for 129 connections");
}

TEST_CASE("load: a node that is killed in the middle leaves requests lost, and load ends") {
  const Site site;
  RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0"});
  Process load(command(site.load(
      edge.address, {"--rate", "100", "--duration", "4s", "--warmup", "1ms", "--wait", "60s",
                     "--connections", "4", "--requests", site.path("requests.csv")})));
  // The table's header: all connections are up.
  REQUIRE(load.wait_for("GOODPUT", seconds(60)));
  std::this_thread::sleep_for(milliseconds(500));
  // It answers no more, so that some are under way when it dies.
  edge.signal(SIGSTOP);
  std::this_thread::sleep_for(milliseconds(300));
  CHECK(edge.stop(SIGKILL).code == 128 + SIGKILL);
  const Finished finished = load.finish(seconds(60));
  INFO(finished.out, finished.err);
  CHECK_FALSE(finished.timed_out);
  CHECK(finished.code == kUnavailable);
  CHECK(finished.err.find("wanted one answer to each request") != std::string::npos);
  CHECK(finished.out.find("unsent: disconnected") != std::string::npos);
  CHECK(finished.out.find("4 connections lost") != std::string::npos);
  const std::string requests = text_of(site.path("requests.csv"));
  CHECK(requests.find(",ok,") != std::string::npos);
  CHECK(requests.find(",lost,") != std::string::npos);
}

TEST_CASE("load: nodes that decide otherwise are told from those that agree") {
  const Site site;
  const RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0"});
  TestModel other = small_model();
  other.tensors.at("fc2.bias").data = {3.0f, -2.0f, 1.0f};
  const std::string changed = site.folder.write("other.safetensors", other.signed_file()).string();
  check_refusal(offramp({"load", "--model", changed, "--thresholds", "0", "--next", edge.address,
                         "--rate", "10", "--wait", "60s", site.picture}),
                kBadModel, "model");
}

TEST_CASE("load: what cannot be meant is refused before anything is sent") {
  const Site site;
  const auto refused = [&](std::vector<std::string> more, const std::string& names) {
    check_refusal(offramp(site.load("127.0.0.1:1", std::move(more))), kUsage, names);
  };
  refused({}, "--rate or --concurrency");
  refused({"--rate", "0"}, "--rate");
  refused({"--rate", "10,many"}, "'many'");
  refused({"--rate", "10", "--concurrency", "2"}, "found both");
  refused({"--concurrency", "2", "--sweep"}, "--sweep");
  refused({"--rate", "10,20", "--sweep"}, "--sweep");
  refused({"--rate", "10", "--arrivals", "never"}, "'never'");
  refused({"--rate", "10", "--cut", "2"}, "--cut");
  refused({"--rate", "10", "--duration", "never"}, "--duration");
  refused({"--rate", "10", "--connections", "65"}, "at least 2 keys");
  refused({"--rate", "10", "--connections", "0"}, "'0'");
}

TEST_CASE("load: a node that is not there is told after --wait") {
  const Site site;
  check_refusal(
      offramp(site.load("127.0.0.1:1", {"--rate", "10", "--wait", "300ms", "--connections", "3"})),
      kUnavailable, "3 connections");
}

}  // namespace
}  // namespace offramp::testing
