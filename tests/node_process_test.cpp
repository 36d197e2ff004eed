// Tiers as processes with real signals: stopped, killed, restarted, started in the wrong order, and
// a worker that does not return. A device loses no answer to any of it.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/test_models.h"
#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// Its model's second stage takes some milliseconds.
struct SlowSite : Site {
  SlowSite() : Site(lopsided_model(32, 15)) {}
};

std::vector<Json> answers(const Finished& device) {
  std::vector<Json> all;
  for (const std::string& line : lines(device.out)) all.push_back(Json::parse(line));
  return all;
}

/// Starts a device on 400 pictures and lets `disturb` loose once the marker has been answered, that
/// is with a window full of requests under way.
template <class Disturb>
Finished disturbed_run(const Site& site, const std::string& next, const std::string& deadline,
                       Disturb disturb) {
  Process device(command(site.run(next, 400, {"--deadline", deadline})));
  REQUIRE(device.wait_for("marker.png", seconds(60)));
  disturb();
  Finished finished = device.finish(seconds(60));
  INFO("stderr: ", finished.err);
  CHECK_FALSE(finished.timed_out);
  CHECK(finished.code == kUnavailable);
  CHECK(lines(finished.out).size() == 400);
  return finished;
}

/// The address of a node that has gone.
std::string vacant_address(const Site& site) {
  RunningNode gone(site.folder, site.model, "edge");
  CHECK(gone.stop().code == 0);
  return gone.address;
}

}  // namespace

TEST_CASE("SIGTERM under load: exit code 0, and what was accepted is answered") {
  const SlowSite site;
  RunningNode edge(site.folder, site.model, "edge");
  Finished stopped;
  const Finished device = disturbed_run(site, edge.address, "60s", [&] { stopped = edge.stop(); });
  CAPTURE(stopped.err);
  CHECK(stopped.code == 0);
  REQUIRE_FALSE(lines(stopped.err).empty());
  const std::string last = lines(stopped.err).back();
  int requests = 0, given = 0;
  REQUIRE(std::sscanf(last.c_str(), "stopped: %d requests, %d answers", &requests, &given) == 2);
  CHECK(requests == given);
  CHECK(last.find("unanswered") == std::string::npos);
  CHECK(last.find("undeliverable") == std::string::npos);
  // Each answer has arrived, and nothing was lost: late and "peer lost" do not occur.
  std::map<std::string, int> counts = statuses(device);
  CHECK(counts["ok"] == given);
  CHECK(counts["ok"] > 20);
  CHECK(counts["degraded(draining)"] > 0);
  CHECK(counts["ok"] + counts["degraded(draining)"] + counts["degraded(disconnected)"] == 400);
}

TEST_CASE("kill -9 under load: degraded answers in time, and a new edge is found") {
  const SlowSite site;
  RunningNode edge(site.folder, site.model, "edge");
  const Finished device = disturbed_run(site, edge.address, "5s", [&] {
    // On a busy machine all that is away might just have been answered: first it answers no more.
    edge.signal(SIGSTOP);
    std::this_thread::sleep_for(milliseconds(300));
    CHECK(edge.stop(SIGKILL).code == 128 + SIGKILL);
  });
  std::map<std::string, int> counts = statuses(device);
  CHECK(counts["ok"] > 20);
  CHECK(counts["degraded(peer lost)"] > 0);
  CHECK(counts["ok"] + counts["degraded(peer lost)"] + counts["degraded(disconnected)"] == 400);
  for (const Json& answer : answers(device)) CHECK(answer.at("total_ms") < 5100.0);

  const RunningNode again(site.folder, site.model, "edge", {"--listen", edge.address});
  CHECK(again.address == edge.address);
  const Finished second = offramp(site.run(edge.address, 12, {"--deadline", "20s"}));
  CHECK(second.code == 0);
  CHECK(statuses(second) == std::map<std::string, int>{{"ok", 12}});
}

TEST_CASE("a device may be started before its edge") {
  const SlowSite site;
  const std::string address = vacant_address(site);
  Process device(command(site.run(address, 12, {"--deadline", "20s", "--wait", "20s"})));
  std::this_thread::sleep_for(milliseconds(300));
  const RunningNode edge(site.folder, site.model, "edge", {"--listen", address});
  const Finished finished = device.finish();
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(statuses(finished) == std::map<std::string, int>{{"ok", 12}});
}

TEST_CASE("a worker that does not return does not keep its node from ending") {
  // 10^12 multiplications in scalar code: minutes.
  const Site site(lopsided_model(512, 255));
  const std::string plain = site.file("plain.png", encode_png(random_picture(1, 1, 1)));
  RunningNode edge(site.folder, site.model, "edge", {"--drain", "300ms"},
                   {{"OFFRAMP_ISA", "scalar"}, {"OFFRAMP_CONV", "direct"}});
  const Finished device =
      offramp({"run", "--model", site.model, "--next", edge.address, "--thresholds", "0", "--codec",
               "u8", "--lz4", "--deadline", "1s", "--wait", "20s", "--json", plain});
  CAPTURE(device.err);
  CHECK(device.code == kUnavailable);
  CHECK(statuses(device) == std::map<std::string, int>{{"degraded(late)", 1}});

  const auto start = std::chrono::steady_clock::now();
  const Finished stopped = edge.stop();
  CHECK(std::chrono::steady_clock::now() - start < seconds(5));
  CAPTURE(stopped.err);
  CHECK_FALSE(stopped.timed_out);
  CHECK(stopped.code == kUnavailable);
  REQUIRE_FALSE(lines(stopped.err).empty());
  CHECK(lines(stopped.err).back() ==
        "offramp: node: wanted every request answered within --drain 300ms, found 1 still being "
        "computed");
}

}  // namespace offramp::testing
