// Several edges as processes, with real signals: killed again and again, frozen, given in the wrong
// order; and the policies and keys as the program takes them.

#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "net/keys.h"
#include "tests/test_models.h"
#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// Its model's second stage takes about a millisecond.
struct ManyEdges : Site {
  ManyEdges() : Site(lopsided_model(32, 9)) {}

  std::unique_ptr<RunningNode> edge(const std::string& listen = "") const {
    std::vector<std::string> more;
    if (!listen.empty()) more = {"--listen", listen};
    return std::make_unique<RunningNode>(folder, model, "edge", more);
  }
};

double longest_ms(const Finished& device) {
  double longest = 0.0;
  for (const std::string& line : lines(device.out))
    longest = std::max(longest, Json::parse(line).at("total_ms").get<double>());
  return longest;
}

}  // namespace

TEST_CASE("kill -9 of one of two edges again and again: every picture is answered in time") {
  const ManyEdges site;
  auto first = site.edge();
  const auto second = site.edge();
  const std::string address = first->address;
  Process device(command(
      site.run(address + "," + second->address, 1500, {"--deadline", "10s", "--wait", "20s"})));
  REQUIRE(device.wait_for("marker.png", seconds(60)));
  for (int i = 0; i < 3; ++i) {
    first->stop(SIGKILL);
    std::this_thread::sleep_for(milliseconds(200));
    first = site.edge(address);
    std::this_thread::sleep_for(milliseconds(300));
  }
  const Finished finished = device.finish(seconds(120));
  CAPTURE(finished.err);
  CHECK_FALSE(finished.timed_out);
  CHECK(lines(finished.out).size() == 1500);
  std::map<std::string, int> counts = statuses(finished);
  // What three kills can catch is at most three windows, and the first ten are tried again.
  CHECK(counts["ok"] >= 1500 - 3 * 8);
  CHECK(counts["ok"] + counts["degraded(peer lost)"] == 1500);
  CHECK(longest_ms(finished) < 10'020.0);
}

TEST_CASE("a frozen edge is left alone, and the other answers what it had") {
  const ManyEdges site;
  const auto first = site.edge(), second = site.edge();
  Process device(command(site.run(first->address + "," + second->address, 400,
                                  {"--deadline", "60s", "--wait", "20s"})));
  REQUIRE(device.wait_for("marker.png", seconds(60)));
  first->signal(SIGSTOP);
  const Finished finished = device.finish(seconds(120));
  first->signal(SIGCONT);
  CAPTURE(finished.err);
  CHECK_FALSE(finished.timed_out);
  CHECK(finished.code == 0);
  CHECK(statuses(finished) == std::map<std::string, int>{{"ok", 400}});
}

TEST_CASE("--next is given again, with commas, and one of them may be absent") {
  const ManyEdges site;
  const auto edge = site.edge();
  const std::vector<std::string> more = {"--deadline", "20s", "--wait", "20s"};
  for (const std::string& next : {"127.0.0.1:1," + edge->address, edge->address + ",127.0.0.1:1"})
    CHECK(statuses(offramp(site.run(next, 5, more))) == std::map<std::string, int>{{"ok", 5}});
  std::vector<std::string> again = more;
  again.insert(again.end(), {"--next", edge->address});
  CHECK(statuses(offramp(site.run("127.0.0.1:1", 5, again))) ==
        std::map<std::string, int>{{"ok", 5}});
  check_refusal(offramp(site.run(edge->address + ",", 1)), kUsage, "--next");
  check_refusal(offramp(site.run("", 1)), kUsage, "--next");
}

TEST_CASE("a name stands for its addresses") {
  const ManyEdges site;
  const auto edge = site.edge();
  const std::string port = edge->address.substr(edge->address.rfind(':'));
  const Finished device =
      offramp(site.run("localhost" + port, 5, {"--deadline", "20s", "--wait", "20s"}));
  CAPTURE(device.err);
  CHECK(statuses(device) == std::map<std::string, int>{{"ok", 5}});
}

TEST_CASE("next.pub may hold a key for each endpoint") {
  const ManyEdges site;
  const auto edge = site.edge();
  const std::string address = edge->address.substr(std::string("tcp://").size());
  const std::string key = lines(text_of(key_folder("device") + "/next.pub")).at(0);
  const TempDir keys;
  std::filesystem::copy_file(key_folder("device") + "/self.key", keys.path() / "self.key");
  const std::string other = make_key_pair().own.text();
  keys.write("next.pub", other + "\n" + key + " " + address + "\n");
  const std::vector<std::string> more = {"--deadline", "20s",    "--wait",
                                         "20s",        "--keys", keys.path().string()};
  CHECK(statuses(offramp(site.run(address, 3, more))) == std::map<std::string, int>{{"ok", 3}});
  keys.write("next.pub", other + " 127.0.0.1:1\n");
  check_refusal(offramp(site.run(address, 3, more)), kBadModel, address);
}

TEST_CASE("--policy strict: no answer, 69, and everything says so") {
  const ManyEdges site;
  const std::string file = site.path("decisions.csv");
  const std::vector<std::string> more = {"--policy", "strict",      "--wait",
                                         "1ms",      "--decisions", file};
  const Finished device = offramp(site.run("127.0.0.1:1", 2, more));
  CHECK(device.code == kUnavailable);
  CHECK(device.err.find("found error(disconnected) for 2 of 2 pictures") != std::string::npos);
  const Json answer = Json::parse(lines(device.out).at(0));
  CHECK(answer.at("status") == "error(disconnected)");
  for (const char* field : {"class", "label", "probability", "tier", "exit", "entropy"})
    CHECK(answer.at(field).is_null());
  CHECK(lines(text_of(file)).at(1) == "0,,,,,error(disconnected)");

  std::vector<std::string> table = site.run("127.0.0.1:1", 1, {"--policy", "strict"});
  std::erase(table, "--json");
  const Finished shown = offramp(table);
  CHECK(shown.out.find("error(disconnected)") != std::string::npos);
  CHECK(shown.out.find("nobody") != std::string::npos);
}

TEST_CASE("--policy local-only: the device answers, 0, and nothing is needed behind it") {
  const ManyEdges site;
  const Finished device = offramp(site.run("", 2, {"--policy", "local-only"}));
  CAPTURE(device.err);
  CHECK(device.code == 0);
  CHECK(statuses(device) == std::map<std::string, int>{{"local", 2}});
  check_refusal(offramp(site.run("127.0.0.1:1", 1, {"--policy", "best"})), kUsage, "--policy");
}

}  // namespace offramp::testing
