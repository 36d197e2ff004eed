// What a node and a device write to their log, and that nobody who does not read it costs an
// answer.

#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "tests/test_nodes.h"
#include "tests/test_site.h"
#include "tests/test_wait.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::seconds;

TEST_CASE("a log in JSON is one object a line") {
  const Site site;
  RunningNode edge(site.folder, site.model, "edge",
                   {"--log-format", "json", "--log-level", "debug"});
  check_all_ok(site.patient_run(edge.address, 3), 3);
  const Finished finished = edge.stop();
  const std::vector<std::string> all = lines(finished.err);
  REQUIRE(all.size() >= 2);
  const std::regex time(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)");
  for (const std::string& line : all) {
    CAPTURE(line);
    const Json object = Json::parse(line);
    CHECK(std::regex_match(object.at("time").get<std::string>(), time));
    CHECK(object.at("tier") == "edge");
    CHECK(object.at("message").is_string());
  }
  const Json first = Json::parse(all.front());
  CHECK(first.at("level") == "info");
  CHECK(first.at("endpoint") == edge.address);
  CHECK(first.at("model") == "small");
  const Json last = Json::parse(all.back());
  CHECK(last.at("requests") == 3);
  CHECK(last.at("answers") == 3);
}

TEST_CASE("--log-level leaves out what is less grave") {
  const Site site;
  RunningNode loud(site.folder, site.model, "edge");
  CHECK(loud.stop().err.find("stopped: ") != std::string::npos);
  Process quiet(command({"node", "--tier", "edge", "--model", site.model, "--listen", "127.0.0.1:0",
                         "--log-level", "error", "--port-file", site.path("addr")}));
  CHECK(eventually([&] { return fs::exists(site.path("addr")); }));
  quiet.signal(SIGTERM);
  const Finished finished = quiet.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
  check_refusal(
      offramp({"node", "--tier", "edge", "--listen", "127.0.0.1:0", "--log-level", "loud"}), kUsage,
      "--log-level");
}

TEST_CASE("a device logs in JSON too") {
  const Site site;
  RunningNode edge(site.folder, site.model, "edge");
  const Finished device =
      site.patient_run(edge.address, 1, {"--log-format", "json", "--log-level", "info"});
  check_all_ok(device, 1);
  const std::vector<std::string> all = lines(device.err);
  REQUIRE(all.size() == 1);
  CHECK(Json::parse(all[0]).at("tier") == "device");
  CHECK(Json::parse(all[0]).at("message") == "next tier connected: " + edge.address);
}

TEST_CASE("a log on a full disk costs no answer") {
  const Site site;
  const std::string port_file = site.path("full.addr");
  std::vector<std::string> arguments =
      command({"node", "--tier", "edge", "--model", site.model, "--listen", "127.0.0.1:0",
               "--log-level", "debug", "--port-file", port_file});
  arguments.insert(arguments.begin(), {"/bin/sh", "-c", "exec \"$@\" 2>/dev/full", "sh"});
  Process node(std::move(arguments));
  REQUIRE(eventually([&] { return fs::exists(port_file); }));
  check_all_ok(site.patient_run(lines(text_of(port_file)).at(0), 20), 20);
  node.signal(SIGTERM);
  CHECK(node.finish().code == 0);
}

TEST_CASE("a log that nobody reads costs no answer, and says later how much is missing") {
  const Site site;
  const std::string port_file = site.path("addr");
  Process node({OFFRAMP_BINARY, "node", "--tier", "edge", "--model", site.model, "--listen",
                "127.0.0.1:0", "--insecure", "--log-format", "json", "--log-level", "debug",
                "--port-file", port_file});
  REQUIRE(eventually([&] { return fs::exists(port_file); }));
  const std::string address = lines(text_of(port_file)).at(0);
  {
    // More lines than a pipe takes: each stranger is good for four before it is not heard any more.
    Frames frames = encode(Hello{.session = 1, .model = {}, .cut = 1, .shape = {.channels = 1}});
    frames.header[kMajorOffset] = 9;
    for (int i = 0; i < 300; ++i) {
      offramp::test::RawClient stranger(address);
      for (int strike = 0; strike < 3; ++strike) {
        stranger.send({frames.header, frames.payload});
        CHECK(stranger.receive());
      }
    }
    check_all_ok(site.patient_run(address, 20, {"--insecure"}), 20);
  }
  // Once the pipe has been read there is room for the line that says so.
  REQUIRE(node.wait_for("listening on ", seconds(20)));
  node.signal(SIGTERM);
  const Finished finished = node.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.find("lines lost: nobody read them") != std::string::npos);
  for (const std::string& line : lines(finished.err)) CHECK(Json::accept(line));
}

TEST_CASE("a port file on a full disk does not keep a node from serving") {
  const Site site;
  const fs::path disk = site.folder.path() / "disk";
  fs::create_directory(disk);
  const std::string enter =
      "mount -t tmpfs -o size=4096 none \"$0\" && head -c 4096 /dev/zero >\"$0/filler\" && "
      "exec \"$@\"";
  const std::vector<std::string> wrap = {
      "/usr/bin/unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", enter,
      disk.string()};
  std::vector<std::string> probe = wrap;
  probe.emplace_back("/bin/true");
  if (!fs::exists(wrap[0]) || Process(probe).finish().code != 0) {
    MESSAGE("skipped: this user may not mount");
    return;
  }
  std::vector<std::string> arguments =
      command({"node", "--tier", "edge", "--model", site.model, "--listen", "127.0.0.1:0", "--keys",
               key_folder("edge"), "--port-file", (disk / "addr").string()});
  arguments.insert(arguments.begin(), wrap.begin(), wrap.end());
  Process node(std::move(arguments));
  REQUIRE(node.wait_for("listening on tcp://", seconds(20)));
  node.signal(SIGTERM);
  const Finished finished = node.finish();
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(finished.err.find("No space left on device") != std::string::npos);
  CHECK(finished.err.find("listening on tcp://") != std::string::npos);
}

}  // namespace
}  // namespace offramp::testing
