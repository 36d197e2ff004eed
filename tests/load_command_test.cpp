// `offramp load` from outside: what it writes, what it refuses, and that it ends whatever the node
// does.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/test_site.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

struct LoadSite : Site {
  /// `offramp load` of a picture that every exit but the last is made unsure of.
  std::vector<std::string> load(const std::string& next, std::vector<std::string> more) const {
    more.insert(more.begin(), {"load", "--model", model, "--thresholds", "0", "--next", next});
    more.push_back(picture);
    return more;
  }
};

std::size_t columns(const std::string& line) {
  return 1 + static_cast<std::size_t>(std::ranges::count(line, ','));
}

TEST_CASE("load: a row for each rate in text, JSON and CSV, a line for each request") {
  const LoadSite site;
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
  const std::vector<std::string> told = lines(text.out);
  REQUIRE(told.size() == 4);
  CHECK(told[0].starts_with("sends "));
  CHECK(told[0].ends_with(", again and again"));
  CHECK(told[1].empty());
  CHECK(told[2].find("GOODPUT") != std::string::npos);
  CHECK(told[3].find("3 away") != std::string::npos);
}

TEST_CASE("load: connections share the keys of a folder") {
  const LoadSite site;
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
  const LoadSite site;
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
  const LoadSite site;
  const RunningNode edge(site.folder, site.model, "edge", {"--thresholds", "0"});
  TestModel other = small_model();
  other.tensors.at("fc2.bias").data = {3.0f, -2.0f, 1.0f};
  const std::string changed = site.file("other.safetensors", other.signed_file());
  check_refusal(offramp({"load", "--model", changed, "--thresholds", "0", "--next", edge.address,
                         "--rate", "10", "--wait", "60s", site.picture}),
                kBadModel, "model");
}

TEST_CASE("load: what cannot be meant is refused before anything is sent") {
  const LoadSite site;
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
  const LoadSite site;
  check_refusal(
      offramp(site.load("127.0.0.1:1", {"--rate", "10", "--wait", "300ms", "--connections", "3"})),
      kUnavailable, "3 connections");
}

}  // namespace
}  // namespace offramp::testing
