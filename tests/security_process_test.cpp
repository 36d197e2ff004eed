// Keys as people use them: named with --keys, read again on SIGHUP, and processes that have the
// wrong ones or none. What makes them is in keygen_test.cpp.

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/test_site.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::seconds;

/// With folders of keys made with `keygen`.
struct KeySite : Site {
  KeySite() {
    make_keys("edge");
    make_keys("device");
    pin("device", "edge");
    allow("device " + public_key("device") + " camera\n");
  }

  std::string public_key(const std::string& tier) const {
    return lines(text_of(path(tier + "/self.key.pub"))).at(0);
  }
  void make_keys(const std::string& tier) const {
    fs::create_directory(path(tier));
    REQUIRE(offramp({"keygen", path(tier + "/self.key")}).code == 0);
  }
  void pin(const std::string& tier, const std::string& next) const {
    folder.write(tier + "/next.pub", public_key(next) + "\n");
  }
  void allow(const std::string& text) const { folder.write("edge/allow", text); }

  /// `offramp run` of one picture.
  std::vector<std::string> ask(const std::string& next, const std::vector<std::string>& keys,
                               const std::string& deadline = "20s") const {
    std::vector<std::string> more = {"--deadline", deadline};
    more.insert(more.end(), keys.begin(), keys.end());
    return run(next, 1, more);
  }
  std::vector<std::string> ask_with_keys(const std::string& next, const std::string& tier) const {
    return ask(next, {"--keys", path(tier), "--wait", "10s"});
  }
};

/// An edge whose keys are those of `site`.
class LockedEdge : public RunningNode {
 public:
  explicit LockedEdge(const KeySite& site, std::vector<std::string> more = {})
      : RunningNode(site.folder, site.model, "edge", with_keys(site, std::move(more))) {}

 private:
  static std::vector<std::string> with_keys(const KeySite& site, std::vector<std::string> more) {
    more.insert(more.end(), {"--keys", site.path("edge")});
    return more;
  }
};

std::string status(const Finished& device) {
  if (lines(device.out).size() != 1) return "no answer";
  return Json::parse(device.out).at("status");
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A sanitizer's library wants to be loaded first.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kMayPreload = false;
#else
constexpr bool kMayPreload = true;
#endif

}  // namespace

TEST_CASE("keys made with keygen let a device in, by their folder and by their file") {
  const KeySite site;
  LockedEdge edge(site);
  for (const char* keys : {"device", "device/self.key"}) {
    const Finished device = offramp(site.ask_with_keys(edge.address, keys));
    CAPTURE(device.err);
    CHECK(device.code == 0);
    CHECK(device.err.empty());
    CHECK(status(device) == "ok");
  }
  const Finished stopped = edge.stop();
  CHECK(stopped.code == 0);
  CHECK(holds(lines(stopped.err).back(), "stopped: 2 requests, 2 answers"));
  CHECK_FALSE(holds(stopped.err, "not let in"));
}

TEST_CASE("without a fitting key the device answers alone, in time, and both say why") {
  const KeySite site;
  site.make_keys("stranger");
  site.pin("stranger", "edge");
  site.make_keys("misled");
  site.pin("misled", "stranger");
  site.make_keys("other");
  site.pin("other", "edge");
  site.allow("device " + site.public_key("device") + "\nedge " + site.public_key("other") +
             " other-edge\ndevice " + site.public_key("misled"));
  LockedEdge edge(site);
  struct Case {
    std::vector<std::string> keys;
    std::string device_says;
  };
  const std::vector<Case> cases = {
      {{"--insecure"}, "wanted a node without keys, found one that ends the handshake"},
      {{"--keys", site.path("misled")},
       "wanted a node with the key " + site.public_key("stranger").substr(0, 10)},
      {{"--keys", site.path("stranger")},
       "does not have our key " + site.public_key("stranger").substr(0, 10)},
      {{"--keys", site.path("other")},
       "does not have our key " + site.public_key("other").substr(0, 10)}};
  for (const Case& each : cases) {
    CAPTURE(each.device_says);
    std::vector<std::string> more = each.keys;
    more.insert(more.end(), {"--wait", "400ms"});
    const Finished device = offramp(site.ask(edge.address, more, "500ms"));
    CAPTURE(device.err);
    CHECK(device.code == kUnavailable);
    CHECK(status(device) == "degraded(disconnected)");
    CHECK(Json::parse(device.out).at("tier") == "device");
    CHECK(Json::parse(device.out).at("total_ms") < 600.0);
    CHECK(holds(device.err, edge.address));
    CHECK(holds(device.err, each.device_says));
  }
  const Finished stopped = edge.stop();
  CAPTURE(stopped.err);
  CHECK(stopped.code == 0);
  CHECK(holds(stopped.err, "a peer without keys"));
  CHECK(holds(stopped.err, "wanted a peer that knows this node's public key"));
  CHECK(holds(stopped.err, "wanted a key of the allow-list, found an unknown one, key " +
                               site.public_key("stranger").substr(0, 10)));
  CHECK(holds(stopped.err, "wanted the role device or any, found edge, key " +
                               site.public_key("other").substr(0, 10) + "... (other-edge)"));
  CHECK(holds(lines(stopped.err).back(), "stopped: 0 requests, 0 answers, "));
  CHECK(holds(lines(stopped.err).back(), "not let in"));
  for (const char* tier : {"edge", "stranger", "misled", "other"})
    CHECK_FALSE(
        holds(stopped.err, text_of(site.path(std::string(tier) + "/self.key")).substr(11, 40)));
}

TEST_CASE("SIGHUP reads the allow-list again: keys come and go, and a bad list changes nothing") {
  const KeySite site;
  const std::string device_line = "device " + site.public_key("device") + "\n";
  site.allow("# nobody yet\n");
  RunningNode edge(site.folder, site.model, "edge", {"--keys", site.path("edge")});
  CHECK(edge.wait_for("the allow-list is empty"));
  const std::vector<std::string> brief =
      site.ask(edge.address, {"--keys", site.path("device"), "--wait", "500ms"});
  CHECK(status(offramp(brief)) == "degraded(disconnected)");

  // A device that is refused and waits gets in once its key is on the list.
  Process waiting(command(site.ask_with_keys(edge.address, "device")));
  CHECK(waiting.wait_for("does not have our key", seconds(20)));
  site.allow(device_line);
  edge.signal(SIGHUP);
  const Finished let_in = waiting.finish();
  CAPTURE(let_in.err);
  CHECK(let_in.code == 0);
  CHECK(status(let_in) == "ok");
  CHECK(edge.wait_for("allow-list read again: 1 key\n"));

  site.allow(device_line + "gibberish\n");
  edge.signal(SIGHUP);
  CHECK(
      edge.wait_for("edge/allow: line 2: wanted device, edge, cloud or any, found 9 other "
                    "characters; the list that was read before stays\n"));
  CHECK(status(offramp(brief)) == "ok");
  fs::remove(site.path("edge/allow"));
  edge.signal(SIGHUP);
  CHECK(
      edge.wait_for("edge/allow: wanted a list of keys, found: No such file or directory; the "
                    "list that was read before stays\n"));
  CHECK(status(offramp(brief)) == "ok");

  site.allow("edge " + site.public_key("device") + "\ndevice " + site.public_key("edge") + "\n");
  edge.signal(SIGHUP);
  CHECK(edge.wait_for("allow-list read again: 2 keys\n"));
  const Finished shut_out = offramp(brief);
  CHECK(status(shut_out) == "degraded(disconnected)");
  CHECK(shut_out.code == kUnavailable);
  CHECK(edge.stop().code == 0);
}

TEST_CASE("SIGHUP while a node starts does not end it" * doctest::skip(!kMayPreload)) {
  const KeySite site;
  RunningNode edge(site.folder, site.model, "edge", {"--keys", site.path("edge")},
                   {{"LD_PRELOAD", OFFRAMP_EARLY_HANGUP}});
  CHECK(edge.wait_for("allow-list read again: 1 key\n"));
  CHECK(edge.stop().code == 0);
}

TEST_CASE("a folder of keys that is gone is missed, and no other list is taken for its own") {
  const KeySite site;
  LockedEdge edge(site);
  site.folder.write("allow", "device " + site.public_key("edge") + " beside the folder\n");
  fs::rename(site.path("edge"), site.path("gone"));
  edge.signal(SIGHUP);
  CHECK(edge.wait_for("the list that was read before stays\n"));
  const Finished stopped = edge.stop();
  CHECK(holds(stopped.err, site.path("edge/allow") + ": wanted a list of keys, found: "));
  CHECK_FALSE(holds(stopped.err, "read again: "));
}

TEST_CASE("a node takes all the descriptors that it may have") {
  const KeySite site;
  const std::string id_file = site.path("id");
  Process edge({"/bin/sh", "-c", R"(ulimit -S -n 64; echo $$ > "$0"; exec "$@")", id_file,
                OFFRAMP_BINARY, "node", "--model", site.model, "--tier", "edge", "--listen",
                "127.0.0.1:0", "--keys", site.path("edge")});
  REQUIRE(edge.wait_for("listening on ", seconds(20)));
  std::ifstream limits("/proc/" + lines(text_of(id_file)).at(0) + "/limits");
  std::string line;
  while (std::getline(limits, line) && !line.starts_with("Max open files")) {
  }
  std::istringstream words(line.substr(std::string("Max open files").size()));
  std::string soft, hard;
  words >> soft >> hard;
  CHECK_FALSE(hard.empty());
  CHECK(soft == hard);
}

TEST_CASE("a node says so where it may have hardly any descriptors") {
  const KeySite site;
  Process edge({"/bin/sh", "-c", R"(ulimit -n 12; exec "$0" "$@")", OFFRAMP_BINARY, "node",
                "--model", site.model, "--tier", "edge", "--listen", "127.0.0.1:0", "--keys",
                site.path("edge")});
  check_refusal(edge.finish(), static_cast<int>(ErrorKind::kSystem), "found 12");
}

TEST_CASE("plaintext has to be asked for, is told of loudly, and stays on the machine") {
  const KeySite site;
  const std::vector<std::string> node = {OFFRAMP_BINARY, "node",   "--model",
                                         site.model,     "--tier", "edge"};
  const auto bare = [](std::vector<std::string> arguments, std::vector<std::string> more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Process(arguments).finish();
  };
  check_refusal(bare(node, {"--listen", "127.0.0.1:0"}), kUsage, "--insecure");
  std::vector<std::string> run = site.ask("127.0.0.1:1", {});
  run.insert(run.begin(), OFFRAMP_BINARY);
  check_refusal(bare(run, {}), kUsage, "--insecure");
  for (const char* listen : {"0.0.0.0:0", "[::]:0", "*:0", "10.1.2.3:0"}) {
    check_refusal(bare(node, {"--insecure", "--listen", listen}), kUsage, "others can reach");
    check_refusal(bare(node, {"--listen", listen}), kUsage, "--keys");
  }
  const Finished both =
      bare(node, {"--listen", "127.0.0.1:0", "--insecure", "--keys", site.path("edge")});
  CHECK(both.code == kUsage);
}

TEST_CASE("--insecure: warned of on both sides, and served") {
  const KeySite site;
  RunningNode edge(site.folder, site.model, "edge", {"--insecure"});
  const Finished device = offramp(site.ask(edge.address, {"--insecure", "--wait", "10s"}));
  CHECK(device.code == 0);
  CHECK(status(device) == "ok");
  CHECK(lines(device.err).size() == 1);
  CHECK(device.err.starts_with("offramp: WARNING: --insecure: "));
  edge.signal(SIGHUP);
  CHECK(edge.wait_for("SIGHUP: wanted a list of keys to read again, found a node without one\n"));
  const Finished stopped = edge.stop();
  CHECK(stopped.code == 0);
  CHECK(holds(stopped.err, "WARNING: --insecure: "));
}

TEST_CASE("a path is taken from nobody: not from a file, not from a node that runs") {
  const KeySite site;
  const std::string file = site.path("edge.socket"), path = "ipc://" + file;
  const std::vector<std::string> node = {"node", "--model",  site.model, "--tier",
                                         "edge", "--listen", path};
  const std::vector<std::string> run = site.ask(path, {"--wait", "10s"});

  std::ofstream(file) << "precious";
  check_refusal(offramp(node), kUnavailable, "no socket");
  CHECK(text_of(file) == "precious");
  fs::remove(file);
  fs::create_symlink(site.model, file);
  check_refusal(offramp(node), kUnavailable, "no socket");
  CHECK(fs::is_symlink(file));
  fs::remove(file);
  const int datagrams = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  file.copy(static_cast<char*>(at.sun_path), sizeof at.sun_path - 1);
  REQUIRE(bind(datagrams, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
  check_refusal(offramp(node), kUnavailable, "may be in use");
  close(datagrams);
  fs::remove(file);

  Process first(command(node));
  REQUIRE(first.wait_for("listening on " + path, seconds(20)));
  check_refusal(offramp(node), kUnavailable, "somebody who listens there");
  CHECK(status(offramp(run)) == "ok");
  first.signal(SIGKILL);
  static_cast<void>(first.finish());
  REQUIRE(fs::is_socket(file));
  Process second(command(node));
  REQUIRE(second.wait_for("listening on " + path, seconds(20)));
  CHECK(status(offramp(run)) == "ok");
  second.signal(SIGTERM);
  CHECK(second.finish().code == 0);
}

TEST_CASE("a path needs no keys, an abstract name is refused") {
  const KeySite site;
  const std::string path = "ipc://" + site.path("edge.socket");
  Process edge({OFFRAMP_BINARY, "node", "--model", site.model, "--tier", "edge", "--listen", path});
  REQUIRE(edge.wait_for("listening on " + path, seconds(20)));
  std::vector<std::string> run = site.ask(path, {"--wait", "10s"});
  run.insert(run.begin(), OFFRAMP_BINARY);
  const Finished device = Process(run).finish();
  CAPTURE(device.err);
  CHECK(device.code == 0);
  CHECK(device.err.empty());
  CHECK(status(device) == "ok");
  edge.signal(SIGTERM);
  const Finished stopped = edge.finish();
  CHECK(stopped.code == 0);
  CHECK_FALSE(holds(stopped.err, "WARNING"));
  // Keys that are named all the same are not read, and so not read again.
  Process keyed({OFFRAMP_BINARY, "node", "--model", site.model, "--tier", "edge", "--listen", path,
                 "--keys", site.path("edge")});
  REQUIRE(keyed.wait_for("listening on " + path, seconds(20)));
  keyed.signal(SIGHUP);
  CHECK(keyed.wait_for("SIGHUP: wanted a list of keys to read again", seconds(20)));
  keyed.signal(SIGTERM);
  CHECK(keyed.finish().code == 0);
  check_refusal(
      offramp({"node", "--model", site.model, "--tier", "edge", "--listen", "ipc://@edge"}), kUsage,
      "ipc://@edge");
}

TEST_CASE("a libzmq without CURVE is told of, and nothing goes out in plaintext instead" *
          doctest::skip(!kMayPreload)) {
  const KeySite site;
  const std::map<std::string, std::string> without = {{"LD_PRELOAD", OFFRAMP_NO_CURVE}};
  const std::vector<std::vector<std::string>> all = {
      {"keygen", site.path("new.key")},
      {"node", "--model", site.model, "--tier", "edge", "--listen", "127.0.0.1:0", "--keys",
       site.path("edge")},
      site.ask("127.0.0.1:1", {"--keys", site.path("device")})};
  for (const std::vector<std::string>& arguments : all)
    check_refusal(offramp(arguments, without), 71, "libzmq: wanted a library with CURVE");
  CHECK_FALSE(fs::exists(site.path("new.key")));
}

TEST_CASE("files of keys that are not as they should be end with 66 or 78 and are named") {
  const KeySite site;
  const auto node = [&] {
    return offramp({"node", "--model", site.model, "--tier", "edge", "--listen", "127.0.0.1:0",
                    "--keys", site.path("edge")});
  };
  const auto device = [&] {
    return offramp(site.ask("127.0.0.1:1", {"--keys", site.path("device")}));
  };
  const std::string edge_key = site.path("edge/self.key"),
                    device_key = site.path("device/self.key");
  const std::string edge_text = text_of(edge_key);

  REQUIRE(chmod(edge_key.c_str(), 0640) == 0);
  REQUIRE(chmod(device_key.c_str(), 0604) == 0);
  check_refusal(node(), kBadModel, edge_key + ": wanted a secret key that only its owner may read");
  check_refusal(device(), kBadModel, device_key);
  REQUIRE(chmod(edge_key.c_str(), 0600) == 0);
  REQUIRE(chmod(device_key.c_str(), 0600) == 0);

  const std::vector<std::string> damaged = {
      "", edge_text.substr(0, 30), "secret-key " + edge_text.substr(0, 29) + "\"",
      site.public_key("edge") + "\n", edge_text.substr(0, 51) + "0\n"};
  for (const std::string& text : damaged) {
    CAPTURE(text);
    site.folder.write("edge/self.key", text);
    check_refusal(node(), kBadModel, edge_key);
  }
  site.folder.write("edge/self.key", edge_text);

  site.allow("device abc\n");
  check_refusal(node(), kBadModel, site.path("edge/allow") + ": line 1: ");
  fs::remove(site.path("edge/allow"));
  check_refusal(node(), kMissing, site.path("edge/allow"));

  site.folder.write("device/next.pub", site.public_key("edge").substr(1));
  check_refusal(device(), kBadModel,
                site.path("device/next.pub") +
                    ": line 1: wanted a public key (40 "
                    "characters of Z85), found 39 characters");
  site.folder.write("device/next.pub", text_of(device_key));
  const Finished swapped = device();
  check_refusal(swapped, kBadModel, "found a secret key");
  CHECK_FALSE(holds(swapped.err, text_of(device_key).substr(11, 8)));
  fs::remove(site.path("device/next.pub"));
  check_refusal(device(), kMissing, site.path("device/next.pub"));
  fs::remove(device_key);
  check_refusal(device(), kMissing, device_key);
}

}  // namespace offramp::testing
