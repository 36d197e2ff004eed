// Options from files and the environment: who goes before whom, and what is refused how.

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using std::chrono::seconds;

struct ConfigSite : Site {
  std::string config(const std::string& text) const {
    return folder.write("offramp.toml", std::string_view(text)).string();
  }
  /// Keys of an edge, the model and an address, as a file has them.
  std::string node_section() const {
    return "[node]\ntier = \"edge\"\nlisten = \"127.0.0.1:0\"\nmodel = \"" + model +
           "\"\nkeys = \"" + key_folder("edge") + "\"\n";
  }
};

/// Without the keys that offramp() adds.
Finished plain(std::vector<std::string> arguments,
               std::map<std::string, std::string> environment = {}) {
  arguments.insert(arguments.begin(), OFFRAMP_BINARY);
  return Process(std::move(arguments), std::move(environment)).finish();
}

/// The line of `text` that begins with `key`.
std::string line_of(const std::string& text, const std::string& key) {
  for (const std::string& line : lines(text))
    if (line.starts_with(key + " ")) return line;
  return {};
}

}  // namespace

TEST_CASE("config check shows each value and where it comes from") {
  const ConfigSite site;
  const std::string file = site.config(site.node_section() +
                                       "workers = 2  # and no more\n"
                                       "drain = \"3s\"\n"
                                       "thresholds = [0.25]\n"
                                       "quiet = true\n");
  const Finished checked =
      plain({"config", "check", file}, {{"OFFRAMP_NODE_WORKERS", "3"}, {"OFFRAMP_MODEL", ""}});
  CAPTURE(checked.err);
  CAPTURE(checked.out);
  CHECK(checked.code == 0);
  CHECK(checked.err.empty());
  const auto shows = [&](const char* key, const std::string& value, const std::string& origin) {
    const std::string line = line_of(checked.out, key);
    CAPTURE(line);
    CHECK(line.find(" " + value + " ") != std::string::npos);
    CHECK(line.ends_with(" " + origin));
  };
  shows("tier", "edge", file + ":2");
  shows("listen", "127.0.0.1:0", file + ":3");
  shows("keys", key_folder("edge"), file + ":5");
  shows("workers", "3", "OFFRAMP_NODE_WORKERS");
  shows("drain", "3s", file + ":7");
  shows("thresholds", "0.25", file + ":8");
  shows("quiet", "true", file + ":9");
  shows("lz4", "false", "default");
  shows("codec", "f32", "default");
  CHECK(lines(checked.out).back() == file + ": ok");
}

TEST_CASE("a flag goes before the environment, and that before the file") {
  const ConfigSite site;
  const std::string file = site.config("[node]\nworkers = 2\n");
  const auto workers = [&](std::vector<std::string> more, const std::string& wanted,
                           std::map<std::string, std::string> environment = {}) {
    RunningNode node(site.folder, site.model, "edge", std::move(more), std::move(environment));
    const std::string err = node.stop().err;
    CAPTURE(err);
    CHECK(err.find(", " + wanted) != std::string::npos);
  };
  workers({}, "1 worker");
  workers({"--config", file}, "2 workers");
  workers({}, "2 workers", {{"OFFRAMP_CONFIG", file}});
  workers({"--config", file}, "3 workers", {{"OFFRAMP_NODE_WORKERS", "3"}});
  workers({"--config", file, "--workers", "4"}, "4 workers", {{"OFFRAMP_NODE_WORKERS", "3"}});
  // The file that was named goes before the one that the environment names.
  workers({"--config", file}, "2 workers", {{"OFFRAMP_CONFIG", "/nowhere.toml"}});
}

TEST_CASE("a variable that looks like an option's and is none is told, and has no effect") {
  const ConfigSite site;
  RunningNode node(site.folder, site.model, "edge", {},
                   {{"OFFRAMP_NODE_WORKRES", "3"}, {"OFFRAMP_NODE_BATCH", "2"}});
  const std::string err = node.stop().err;
  CAPTURE(err);
  CHECK(err.find("OFFRAMP_NODE_WORKRES: wanted an option of offramp node after OFFRAMP_NODE_, "
                 "found none") != std::string::npos);
  CHECK(err.find("OFFRAMP_NODE_BATCH") == std::string::npos);
  CHECK(err.find(", 1 worker") != std::string::npos);
}

TEST_CASE("a node may have all of its options from a file, and so may a device") {
  const ConfigSite site;
  const std::string port_file = site.path("edge.addr");
  const std::string file = site.config(site.node_section() + "port-file = \"" + port_file + "\"\n");
  Process node({OFFRAMP_BINARY, "node", "--config", file});
  REQUIRE(node.wait_for("listening on ", seconds(20)));
  const std::string address = lines(text_of(port_file)).at(0);
  const std::string device = site.config("[run]\nnext = \"" + address + "\"\nmodel = \"" +
                                         site.model + "\"\nkeys = \"" + key_folder("device") +
                                         "\"\nwait = \"20s\"\ndeadline = \"20s\"\n"
                                         "thresholds = 0\njson = true\n");
  const Finished finished = plain({"run", "--config", device, site.picture});
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(finished.out.find("\"tier\":\"edge\"") != std::string::npos);
  node.signal(SIGTERM);
  CHECK(node.finish().code == 0);
}

TEST_CASE("what is wrong with a file is said in one line that names it, the line and the key") {
  const ConfigSite site;
  struct Wrong {
    std::string text;
    std::string names;  ///< after the file's name
    std::string wanted;
  };
  const std::string good = site.node_section();
  const std::vector<Wrong> all = {
      {"[node\n", ":1: ", "TOML"},
      {"tier = \"edge\"\n", ":1: ", "[node]"},
      {"[knot]\ntier = \"edge\"\n", ":1: ", "[demo], [node], [run]"},
      {good + "wokers = 2\n", ":6: ", "an option of offramp node"},
      {good + "[run]\nnex = \"a:1\"\n", ":7: ", "an option of offramp run"},
      {good + "config = \"other.toml\"\n", ":6: ", "an option of offramp node"},
      {good + "workers = 2\nworkers = 3\n", ":7: ", "TOML"},
      {good + "workers = \"2\"\n", ":6: workers: ", "a whole number"},
      {good + "workers = 2.5\n", ":6: workers: ", "a whole number"},
      {good + "workers = 0\n", ":6: workers: ", "from 1 to 256"},
      {good + "lz4 = \"yes\"\n", ":6: lz4: ", "true or false"},
      {good + "drain = true\n", ":6: drain: ", "text or a number"},
      {good + "drain = \"soon\"\n", ":6: drain: ", "a duration"},
      {good + "drain = 10\n", ":6: drain: ", "a duration"},
      {good + "thresholds = [0.1, true]\n", ":6: thresholds: ", "text or a number"},
      {good + "thresholds = [0.1, 0.2, 0.3]\n", ":6: thresholds: ", "1 value"},
      {good + "next = \"nowhere\"\n", ":6: next: ", "HOST:PORT"},
      {good + "metrics = \"nowhere\"\n", ":6: metrics: ", "HOST:PORT"},
      {good + "codec = \"u9\"\n", ":6: codec: ", "f32, f16, u8 or u8c"},
      {good + "log-level = \"loud\"\n", ":6: log-level: ", "debug, info, warning or error"},
      {good + "log-level = \"info\"\nquiet = true\n", "", "without"},
      {good + "insecure = true\n", "", "without"},
      {"[node]\ntier = \"moon\"\n", ":2: tier: ", "edge or cloud"},
  };
  for (const Wrong& wrong : all) {
    CAPTURE(wrong.text);
    const std::string file = site.config(wrong.text);
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"config", "check", file},
          std::vector<std::string>{"node", "--config", file}}) {
      const Finished refused = plain(arguments);
      check_refusal(refused, kUsage, file + wrong.names);
      CHECK(refused.err.find(wrong.wanted) != std::string::npos);
    }
  }
}

TEST_CASE("what a file names is looked for, and the file is named when it is not there") {
  const ConfigSite site;
  const std::string start = "[node]\ntier = \"edge\"\nlisten = \"127.0.0.1:0\"\n";
  const std::string gone = site.path("gone");
  const std::string model = "model = \"" + site.model + "\"\n";
  const std::string no_keys = site.config(start + model + "keys = \"" + gone + "\"\n");
  check_refusal(plain({"config", "check", no_keys}), kMissing, no_keys + ":5: keys: " + gone);
  const std::string no_model =
      site.config(start + "model = \"" + gone + "\"\nkeys = \"" + key_folder("edge") + "\"\n");
  check_refusal(plain({"config", "check", no_model}), kMissing, no_model + ":4: model: " + gone);
  const std::string damaged = site.folder.write("bad.safetensors", "nonsense").string();
  const std::string bad_model =
      site.config(start + "model = \"" + damaged + "\"\nkeys = \"" + key_folder("edge") + "\"\n");
  check_refusal(plain({"config", "check", bad_model}), kBadModel,
                bad_model + ":4: model: " + damaged);
  // Neither keys nor --insecure.
  const std::string open = site.config(start + model);
  check_refusal(plain({"config", "check", open}), kUsage, open + ":3: listen");

  for (const char* command : {"node", "run", "demo"}) {
    CAPTURE(command);
    check_refusal(plain({command, "--config", gone}), kMissing, gone);
  }
  check_refusal(plain({"config", "check", gone}), kMissing, gone);
  check_refusal(plain({"config", "check", site.folder.path().string()}), kMissing, "a folder");
  check_refusal(plain({"config", "check", site.config("")}), kUsage, "[node]");
  check_refusal(plain({"config", "check", site.config("[node]\n")}), kUsage, "--tier");
}

TEST_CASE("what is wrong with the environment is said with the variable's name") {
  const ConfigSite site;
  const auto node = [&](const std::string& name, const std::string& value) {
    std::map<std::string, std::string> environment = {{"OFFRAMP_NODE_TIER", "edge"},
                                                      {"OFFRAMP_NODE_LISTEN", "127.0.0.1:0"}};
    environment[name] = value;
    return offramp({"node", "--model", site.model}, environment);
  };
  check_refusal(node("OFFRAMP_NODE_TIER", "moon"), kUsage, "OFFRAMP_NODE_TIER: wanted");
  check_refusal(node("OFFRAMP_NODE_LISTEN", "here"), kUsage, "OFFRAMP_NODE_LISTEN: wanted");
  check_refusal(node("OFFRAMP_NODE_WORKERS", "two"), kUsage, "OFFRAMP_NODE_WORKERS: wanted");
  check_refusal(node("OFFRAMP_NODE_LZ4", "maybe"), kUsage,
                "OFFRAMP_NODE_LZ4: wanted true or false");
  check_refusal(node("OFFRAMP_NODE_METRICS_PORT_FILE", "x"), kUsage,
                "OFFRAMP_NODE_METRICS_PORT_FILE: wanted");
}

TEST_CASE("--insecure goes before the keys of a file, and a key folder before an insecure file") {
  const ConfigSite site;
  const std::string with_keys = site.config(site.node_section());
  Process open({OFFRAMP_BINARY, "node", "--config", with_keys, "--insecure"});
  CHECK(open.wait_for("WARNING: --insecure", seconds(20)));
  open.signal(SIGTERM);
  CHECK(open.finish().code == 0);

  const std::string without =
      site.config("[node]\ntier = \"edge\"\nlisten = \"127.0.0.1:0\"\ninsecure = true\nmodel = \"" +
                  site.model + "\"\n");
  Process closed({OFFRAMP_BINARY, "node", "--config", without, "--keys", key_folder("edge")});
  CHECK(closed.wait_for("listening on ", seconds(20)));
  closed.signal(SIGTERM);
  const Finished finished = closed.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.find("WARNING") == std::string::npos);
}

TEST_CASE("the demo has its own section, and its nodes have none") {
  const ConfigSite site;
  const std::string file = site.config("[demo]\nlimit = 1\nthresholds = \"0\"\nmodel = \"" +
                                       site.model + "\"\ndata = \"" + site.path("data") +
                                       "\"\n[node]\ntier = \"cloud\"\nworkers = 3\n");
  for (const char* name : {"cat", "dog", "owl"})
    site.file(std::string("data/") + name + "/1.png", encode_png(random_picture(4, 4, 7)));
  const Finished finished =
      plain({"demo"}, {{"OFFRAMP_CONFIG", file}, {"OFFRAMP_NODE_INSECURE", "true"}});
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
  CHECK(finished.out.find("edge/last") != std::string::npos);
}

}  // namespace offramp::testing
