// `offramp run` from outside, with the node that it hands on to: decisions, what is written, what
// is refused.

#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;

/// Of a line of CSV without quotes.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  for (const char c : line) {
    if (c == ',')
      cells.emplace_back();
    else
      cells.back().push_back(c);
  }
  return cells;
}

TEST_CASE("run through a node gives eval's decisions bit for bit") {
  const DataSite site;
  for (const char* threshold : {"0", "0.9", "1"}) {
    CAPTURE(threshold);
    RunningNode edge(site.folder, site.model, "edge", {"--thresholds", threshold});
    const Finished run = offramp({"run", "-m", site.model, "--next", edge.address, "--data",
                                  site.data, "--thresholds", threshold, "--deadline", "20s",
                                  "--json", "--decisions", site.path("run.csv")});
    CAPTURE(run.err);
    CHECK(run.code == 0);
    const Finished eval = offramp({"eval", "-m", site.model, "--data", site.data, "--thresholds",
                                   threshold, "--json", "--decisions", site.path("eval.csv")});
    CHECK(eval.code == 0);
    CHECK(text_of(site.path("run.csv")) == text_of(site.path("eval.csv")));
    CHECK(Json::parse(run.out).at("accuracy") == Json::parse(eval.out).at("accuracy"));
    const Finished stopped = edge.stop();
    CHECK(stopped.code == 0);
    CHECK(lines(stopped.err).front().starts_with("listening on " + edge.address));
    CHECK(lines(stopped.err).back().starts_with("stopped: "));
  }
}

TEST_CASE("run --codec gives the decisions of eval --codec, and both say what crossed") {
  const DataSite site;
  RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0.9"});
  for (const std::vector<std::string>& codec :
       std::vector<std::vector<std::string>>{{"--codec", "f32"},
                                             {"--codec", "f16"},
                                             {"--codec", "u8"},
                                             {"--codec", "u8c", "--lz4"},
                                             {"--lz4"}}) {
    std::vector<std::string> arguments = {
        "run",          "-m",         site.model, "--next", edge.address,  "--data",
        site.data,      "--deadline", "20s",      "--json", "--decisions", site.path("run.csv"),
        "--thresholds", "0.9"};
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    const Finished run = offramp(arguments);
    CAPTURE(run.err);
    REQUIRE(run.code == 0);
    arguments = {"eval",         "-m", site.model, "--data",      site.data,
                 "--batch",      "5",  "--json",   "--decisions", site.path("eval.csv"),
                 "--thresholds", "0.9"};
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    const Finished eval = offramp(arguments);
    CAPTURE(eval.err);
    REQUIRE(eval.code == 0);
    CHECK(text_of(site.path("run.csv")) == text_of(site.path("eval.csv")));
    const Json cuts = Json::parse(run.out).at("cuts");
    REQUIRE(cuts.size() == 1);
    CHECK(cuts == Json::parse(eval.out).at("cuts"));
    CHECK(cuts[0].at("tensors").get<int>() > 0);
    if (codec.size() == 2) {
      const Json inspected = Json::parse(offramp({"inspect", "--json", site.model}).out);
      for (const Json& cut : inspected.at("cuts")) {
        if (cut.at("shape") != cuts[0].at("shape")) continue;
        CHECK(cuts[0].at("mean_bytes") == 96.0 + cut.at("bytes_as").at(codec[1]).get<double>());
      }
    }
  }
}

TEST_CASE("activations that f16 does not reach are told, not changed") {
  const DataSite site;
  TestModel loud = small_model();
  for (float& v : loud.tensors.at("bn.bias").data) v = 1e6f;
  const std::string model = site.file("loud.safetensors", loud.signed_file());
  const auto eval = [&](const char* codec) {
    return offramp({"eval", "-m", model, "--data", site.data, "--codec", codec});
  };
  CHECK(eval("u8").code == 0);
  check_refusal(eval("f16"), kBadData, "as f16 with finite numbers");

  RunningNode edge(site.folder, model, "edge", {"--thresholds", "0"});
  const Finished run = offramp({"run", "-m", model, "--next", edge.address, "--thresholds", "0",
                                "--codec", "f16", "--json", "--deadline", "20s", site.pictures[0]});
  CAPTURE(run.err);
  CHECK(run.code == kUnavailable);
  CHECK(Json::parse(run.out).at("status") == "degraded(refused)");
}

TEST_CASE("run answers pictures in their order and skips bad ones") {
  const DataSite site;
  RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0.9"});
  std::vector<std::string> arguments = {
      "run", "-m",         site.model, "--next", edge.address,           "--thresholds",
      "0.9", "--deadline", "20s",      "--json", site.path("absent.png")};
  arguments.insert(arguments.end(), site.pictures.begin(), site.pictures.end());
  const Finished finished = offramp(arguments);
  CHECK(finished.code == kMissing);
  CHECK(lines(finished.err).size() == 1);
  REQUIRE(lines(finished.out).size() == site.pictures.size());
  for (std::size_t i = 0; i < site.pictures.size(); ++i) {
    const Json answer = Json::parse(lines(finished.out)[i]);
    CHECK(answer.at("picture") == site.pictures[i]);
    CHECK(answer.at("status") == "ok");
    CHECK((answer.at("tier") == "edge") == (answer.at("exit") == "last"));
    CHECK((answer.at("sent_bytes") == 0) == (answer.at("tier") == "device"));
  }
  CHECK(edge.stop(SIGINT).code == 0);
}

TEST_CASE("run --duration goes through the data again and again, --history tells of each picture") {
  const DataSite site;
  RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0.9"});
  const Finished run = offramp({"run",         "-m",
                                site.model,    "--next",
                                edge.address,  "--data",
                                site.data,     "--thresholds",
                                "0.9",         "--deadline",
                                "20s",         "--json",
                                "--duration",  "1s",
                                "--every",     "5ms",
                                "--history",   site.path("history.csv"),
                                "--decisions", site.path("run.csv")});
  CAPTURE(run.err);
  CHECK(run.code == 0);
  const auto count = Json::parse(run.out).at("pictures").get<std::size_t>();
  CHECK(count > site.pictures.size());
  CHECK(count <= 201);  // one at the start and one every 5 ms

  const Finished eval = offramp({"eval", "-m", site.model, "--data", site.data, "--thresholds",
                                 "0.9", "--json", "--decisions", site.path("eval.csv")});
  CHECK(eval.code == 0);
  const std::vector<std::string> once = lines(text_of(site.path("eval.csv")));
  const std::vector<std::string> often = lines(text_of(site.path("run.csv")));
  CHECK(often.size() == count + 1);

  const std::vector<std::string> history = lines(text_of(site.path("history.csv")));
  CHECK(history.at(0) ==
        "time_us,event,id,picture,tier,exit,label,probability,entropy,status,total_us");
  CHECK(history.size() == 2 * count + 1);
  std::map<std::size_t, std::int64_t> begun, answered;
  for (std::size_t i = 1; i < history.size(); ++i) {
    CAPTURE(history[i]);
    const std::vector<std::string> cells = cells_of(history[i]);
    REQUIRE(cells.size() == 11);
    const std::size_t id = std::stoul(cells[2]), picture = std::stoul(cells[3]);
    CHECK(picture == id % site.pictures.size());
    auto& times = cells[1] == "begun" ? begun : answered;
    CHECK(times.emplace(id, std::stoll(cells[0])).second);
    if (cells[1] == "begun") continue;
    CHECK(cells[1] == "answered");
    CHECK(cells[4] == (cells[5] == "0" ? "device" : "edge"));
    CHECK(cells[9] == "ok");
    const std::string decision =
        cells[6] + "," + cells[5] + "," + cells[7] + "," + cells[8] + "," + cells[9];
    CHECK(once.at(picture + 1) == std::to_string(picture) + "," + decision);
    CHECK(often.at(id + 1) == std::to_string(id) + "," + decision);
    REQUIRE(begun.contains(id));
    // The row is written once the total has been taken.
    CHECK(answered.at(id) - begun.at(id) + 1 >= std::stoll(cells[10]));
  }
  CHECK(begun.size() == count);
  CHECK(answered.size() == count);
}

TEST_CASE("run --duration complains of a bad picture once, and begins at least one") {
  const DataSite site;
  RunningNode edge(site.folder, site.model, "edge");
  const auto run = [&](const std::string& duration) {
    return offramp({"run", "-m", site.model, "--next", edge.address, "--deadline", "20s", "--json",
                    "--duration", duration, "--every", "10ms", site.pictures[0],
                    site.path("absent.png")});
  };
  const Finished often = run("2s");
  CHECK(often.code == kMissing);
  CHECK(lines(often.err).size() == 1);
  CHECK(lines(often.out).size() > 1);
  for (const std::string& line : lines(often.out))
    CHECK(Json::parse(line).at("picture") == site.pictures[0]);

  const Finished once = run("1us");
  CHECK(once.code == 0);
  CHECK(lines(once.out).size() == 1);
}

TEST_CASE("without the next tier the device answers, degraded, and says so with 69") {
  const DataSite site;
  const Finished finished = offramp({"run", "-m", site.model, "--next", "127.0.0.1:1",
                                     "--thresholds", "0", "--json", site.pictures[0]});
  CHECK(finished.code == kUnavailable);
  REQUIRE(lines(finished.out).size() == 1);
  const Json answer = Json::parse(finished.out);
  CHECK(answer.at("tier") == "device");
  CHECK(answer.at("status") == "degraded(disconnected)");
  CAPTURE(finished.err);
  REQUIRE(lines(finished.err).size() == 1);
  CHECK(finished.err.find("tcp://127.0.0.1:1: wanted") != std::string::npos);
  CHECK(finished.err.find("found degraded(disconnected) for 1 of 1") != std::string::npos);
}

TEST_CASE("different models on two tiers end with 78 and name both") {
  const DataSite site;
  TestModel other = small_model();
  other.metadata["offramp.name"] = "other";
  const std::string path = site.file("other.safetensors", other.signed_file());
  RunningNode edge(site.folder, path, "edge");
  const Finished finished = offramp(
      {"run", "-m", site.model, "--next", edge.address, "--thresholds", "0", site.pictures[0]});
  check_refusal(finished, kBadModel, edge.address);
  for (const std::string& model : {site.model, path}) {
    const std::string id = Json::parse(offramp({"inspect", "--json", model}).out).at("id");
    CHECK(finished.err.find(id.substr(0, 16)) != std::string::npos);
  }
}

TEST_CASE("a node refuses what it cannot serve") {
  const DataSite site;
  const auto node = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"node", "-m", site.model});
    return offramp(options);
  };
  RunningNode edge(site.folder, site.model, "edge");
  check_refusal(node({"--tier", "edge", "--listen", edge.address}), kUnavailable, edge.address);
  check_refusal(node({"--tier", "cloud", "--listen", "127.0.0.1:0"}), kUsage, "cloud");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--next", "127.0.0.1:1"}),
                kUsage, "--next");
  check_refusal(node({"--tier", "edge", "--listen", "nonsense"}), kUsage, "nonsense");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--batch", "33"}), kUsage, "33");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--batch-delay", "3ms"}), kUsage,
                "3ms");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--codec", "u8"}), kUsage,
                "--codec");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:99999"}), kUsage, "99999");
  check_refusal(
      node({"--tier", "edge", "--listen", "127.0.0.1:0", "--port-file", site.path("absent/port")}),
      kCannotWrite, "absent/port");
}

TEST_CASE("deadlines are durations") {
  const DataSite site;
  for (const char* wrong : {"1", "fast", "0s", "-1s", "2h", "1e9s", "nan", "1 s"}) {
    CAPTURE(wrong);
    check_refusal(offramp({"run", "-m", site.model, "--next", "127.0.0.1:1",
                           std::string("--deadline=") + wrong, site.pictures[0]}),
                  kUsage, "--deadline");
  }
  for (const char* right : {"250us", "50ms", "1.5s"}) {
    CAPTURE(right);
    const Finished finished =
        offramp({"run", "-m", site.model, "--next", "127.0.0.1:1", "--thresholds", "1",
                 std::string("--deadline=") + right, site.pictures[0]});
    CHECK(finished.code == 0);
  }
}

}  // namespace
}  // namespace offramp::testing
