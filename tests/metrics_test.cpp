// What a node tells over HTTP and to its log, `offramp top`, and that nobody who asks, reads slowly
// or not at all costs an answer.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "tests/test_command.h"
#include "tests/test_models.h"
#include "tests/test_nodes.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kPatience{30};

template <class Condition>
bool comes_true(Condition condition) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(20));
  }
  return true;
}

/// "127.0.0.1:40001" in parts.
std::pair<std::string, int> host_and_port(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  return {address.substr(0, colon), std::stoi(address.substr(colon + 1))};
}

struct Answer {
  int status = -1;
  std::string body;
};

Answer get(const std::string& address, const std::string& path) {
  const auto [host, port] = host_and_port(address);
  httplib::Client client(host, port);
  client.set_read_timeout(kPatience);
  const httplib::Result result = client.Get(path);
  return result ? Answer{result->status, result->body} : Answer{};
}

/// The sum of the samples whose name and labels begin with `start`.
double metric(const std::string& address, const std::string& start) {
  double sum = 0.0;
  for (const std::string& line : lines(get(address, "/metrics").body)) {
    const std::size_t blank = line.rfind(' ');
    if (!line.starts_with('#') && line.substr(0, blank).starts_with(start))
      sum += std::stod(line.substr(blank + 1));
  }
  return sum;
}

/// A model, a picture and a node with metrics.
class Bench {
 public:
  explicit Bench(const TestModel& test_model = small_model()) {
    model = folder.write("model.safetensors", test_model.signed_file()).string();
    picture = folder.write("a.png", encode_png(random_picture(4, 4, 1))).string();
  }
  std::string metrics_file(const std::string& tier) const {
    return (folder.path() / (tier + ".metrics")).string();
  }
  std::vector<std::string> with_metrics(const std::string& tier,
                                        std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--metrics", "0", "--metrics-port-file", metrics_file(tier)});
    return more;
  }
  std::string metrics_address(const std::string& tier) const {
    return lines(text_of(metrics_file(tier))).at(0);
  }
  /// A device that sends `count` pictures on.
  Finished run(const std::string& next, int count, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"run", "--model",    model, "--next", next,  "--thresholds",
                                    "0",   "--deadline", "20s", "--wait", "20s", "--json"};
    all.insert(all.end(), more.begin(), more.end());
    for (int i = 0; i < count; ++i) all.push_back(picture);
    return Process(command(std::move(all))).finish(seconds(60));
  }

  TempDir folder;
  std::string model, picture;
};

/// All answers are the whole cascade's.
void check_untouched(const Finished& device, int count) {
  INFO("stderr: ", device.err);
  CHECK(device.code == 0);
  const std::vector<std::string> answers = lines(device.out);
  CHECK(answers.size() == static_cast<std::size_t>(count));
  for (const std::string& answer : answers) CHECK(Json::parse(answer).at("status") == "ok");
}

/// A TCP connection that is not closed before the end of the scope.
class Connection {
 public:
  explicit Connection(const std::string& address) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const auto [host, port] = host_and_port(address);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    inet_pton(AF_INET, host.c_str(), &to.sin_addr);
    // Where the node does not accept, as when it has enough, connecting is not to wait.
    fcntl(socket_, F_SETFL, O_NONBLOCK);
    static_cast<void>(connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof to));
  }
  ~Connection() { close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// False when it cannot be sent now, or ever.
  bool send(const std::string& text) const {
    return ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL) > 0;
  }

 private:
  int socket_;
};

std::size_t descriptors_of(pid_t process) {
  const fs::directory_iterator all("/proc/" + std::to_string(process) + "/fd");
  return static_cast<std::size_t>(std::distance(fs::begin(all), fs::end(all)));
}

/// An HTTP server with one page.
class Page {
 public:
  explicit Page(const std::string& text) {
    server_.Get("/metrics", [text](const httplib::Request&, httplib::Response& response) {
      response.set_content(text, "text/plain");
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::sleep_for(milliseconds(1));
  }
  ~Page() {
    server_.stop();
    thread_.join();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;
};

}  // namespace

TEST_CASE("metrics of a node add up to what a device has seen") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  const std::string at = bench.metrics_address("edge");
  CHECK(at.starts_with("127.0.0.1:"));
  check_untouched(bench.run(edge.address, 7, {"--codec", "u8"}), 7);

  const Answer page = get(at, "/metrics");
  CAPTURE(page.body);
  CHECK(page.status == 200);
  CHECK(page.body.find("offramp_info{") != std::string::npos);
  for (const char* label : {"tier=\"edge\"", "model=\"small\"", "version=\"", "model_id=\""})
    CHECK(page.body.find(label) != std::string::npos);
  CHECK(metric(at, "offramp_requests_total") == 7);
  CHECK(metric(at, "offramp_answers_total{exit=\"last\",reason=\"ok\"}") == 7);
  CHECK(metric(at, "offramp_answers_total") == 7);
  CHECK(metric(at, "offramp_faults_total") == 0);
  for (const char* histogram : {"latency_seconds", "queue_seconds", "compute_seconds", "entropy"}) {
    CAPTURE(histogram);
    CHECK(metric(at, std::string("offramp_") + histogram + "_count") == 7);
  }
  CHECK(metric(at, "offramp_latency_seconds_bucket{le=\"+Inf\"}") == 7);
  CHECK(metric(at, "offramp_received_tensors_total{dtype=\"u8\",codec=\"raw\"}") == 7);
  CHECK(metric(at, "offramp_received_bytes_total{dtype=\"u8\",codec=\"raw\"}") == 7 * (2 * 16 + 5));
  CHECK(metric(at, "offramp_received_bytes_total{dtype=\"f32\"") == 0);
  CHECK(metric(at, "offramp_sent_bytes_total") == 0);
  CHECK(metric(at, "offramp_queue_depth") == 0);
  CHECK(metric(at, "offramp_draining") == 0);
  CHECK(get(at, "/health/live").status == 200);
  CHECK(get(at, "/health/ready").body == "ok\n");
  CHECK(offramp({"health", at}).out == "ready\n");
  CHECK(offramp({"health", "--live", at}).out == "live\n");
  check_refusal(offramp({"health", "127.0.0.1:1"}), kUnavailable, "unreachable");
  CHECK(get(at, "/").status == 404);

  // A device without a key is counted where it is refused.
  const Finished stranger =
      offramp({"run", "--model", bench.model, "--next", edge.address, "--thresholds", "0",
               "--insecure", "--deadline", "300ms", bench.picture});
  CHECK(stranger.code == kUnavailable);
  CHECK(comes_true([&] { return metric(at, "offramp_denied_total") > 0; }));
}

TEST_CASE("an address for metrics that cannot be had is an error before the node starts") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  const auto second = [&](const std::string& address) {
    return offramp({"node", "--tier", "edge", "--model", bench.model, "--listen", "127.0.0.1:0",
                    "--metrics", address});
  };
  check_refusal(second(bench.metrics_address("edge")), kUnavailable,
                "--metrics " + bench.metrics_address("edge"));
  check_refusal(second("nowhere.invalid:0"), kUnavailable, "nowhere.invalid");
  for (const char* wrong : {"x", "1:2:", "127.0.0.1:65536", "127.0.0.1:-1", "http://a/b:1"}) {
    CAPTURE(wrong);
    check_refusal(second(wrong), kUsage, "--metrics");
  }
}

TEST_CASE("health: stuck workers make a node unready and then dead, and a drain makes it unready") {
  // 10^12 multiplications in scalar code: minutes.
  const Bench bench(lopsided_model(1024, 127));
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge", {"--drain", "4s"}),
                   {{"OFFRAMP_ISA", "scalar"}, {"OFFRAMP_CONV", "direct"}});
  const std::string at = bench.metrics_address("edge");
  CHECK(get(at, "/health/live").status == 200);
  const Finished device =
      offramp({"run", "--model", bench.model, "--next", edge.address, "--thresholds", "0",
               "--deadline", "2s", "--wait", "15s", bench.picture});
  CAPTURE(device.err);
  CHECK(device.code == kUnavailable);
  Answer ready;
  CHECK(comes_true([&] { return (ready = get(at, "/health/ready")).status == 503; }));
  CHECK(ready.body.starts_with("the workers have not answered for "));
  CHECK(lines(ready.body).size() == 1);
  check_refusal(offramp({"health", at}), kUnavailable, "the workers have not answered for ");
  Answer live;
  CHECK(comes_true([&] { return (live = get(at, "/health/live")).status == 503; }));
  CHECK(live.body.starts_with("the workers have not answered for "));
  CHECK(metric(at, "offramp_in_work") == 1);
  edge.signal(SIGTERM);
  CHECK(comes_true([&] { return get(at, "/health/ready").body == "draining\n"; }));
  CHECK(edge.finish().code == kUnavailable);
}

TEST_CASE("HTTP clients that hang, flood or never read cost no answer, and others get theirs") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  const std::string at = bench.metrics_address("edge");
  const std::size_t before = descriptors_of(edge.id());
  std::vector<std::unique_ptr<Connection>> hung;
  for (int i = 0; i < 60; ++i) {
    hung.push_back(std::make_unique<Connection>(at));
    if (i % 3 == 1) hung.back()->send("GET /metrics HTTP/1.1\r\nHost: a");
    if (i % 3 == 2) hung.back()->send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
  }
  std::atomic<bool> over{false};
  std::thread flood([&] {
    const std::string header = "X-Long: " + std::string(4000, 'x') + "\r\n";
    while (!over) {
      const Connection connection(at);
      std::this_thread::sleep_for(milliseconds(5));
      connection.send("GET /metrics HTTP/1.1\r\n");
      for (int i = 0; i < 100 && connection.send(header); ++i) {
      }
    }
  });
  check_untouched(bench.run(edge.address, 100), 100);
  CHECK(descriptors_of(edge.id()) < before + 16);
  CHECK(comes_true([&] { return get(at, "/health/live").status == 200; }));
  check_untouched(bench.run(edge.address, 20), 20);
  over = true;
  flood.join();
  hung.clear();
  CHECK(comes_true([&] { return get(at, "/metrics").status == 200; }));
  CHECK(edge.stop().code == 0);
}

TEST_CASE("a node ends at once while an HTTP client hangs") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  const Connection hung(bench.metrics_address("edge"));
  hung.send("GET /met");
  const Finished finished = edge.stop();
  CHECK_FALSE(finished.timed_out);
  CHECK(finished.code == 0);
}

// ---- the log ----

TEST_CASE("a log in JSON is one object a line") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge",
                   {"--log-format", "json", "--log-level", "debug"});
  check_untouched(bench.run(edge.address, 3), 3);
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
  const Bench bench;
  RunningNode loud(bench.folder, bench.model, "edge");
  CHECK(loud.stop().err.find("stopped: ") != std::string::npos);
  Process quiet(
      command({"node", "--tier", "edge", "--model", bench.model, "--listen", "127.0.0.1:0",
               "--log-level", "error", "--port-file", (bench.folder.path() / "addr").string()}));
  CHECK(comes_true([&] { return fs::exists(bench.folder.path() / "addr"); }));
  quiet.signal(SIGTERM);
  const Finished finished = quiet.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
  check_refusal(
      offramp({"node", "--tier", "edge", "--listen", "127.0.0.1:0", "--log-level", "loud"}), kUsage,
      "--log-level");
}

TEST_CASE("a device logs in JSON too") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge");
  const Finished device =
      bench.run(edge.address, 1, {"--log-format", "json", "--log-level", "info"});
  check_untouched(device, 1);
  const std::vector<std::string> all = lines(device.err);
  REQUIRE(all.size() == 1);
  CHECK(Json::parse(all[0]).at("tier") == "device");
  CHECK(Json::parse(all[0]).at("message") == "next tier connected: " + edge.address);
}

TEST_CASE("a log on a full disk costs no answer") {
  const Bench bench;
  const std::string port_file = (bench.folder.path() / "full.addr").string();
  std::vector<std::string> arguments =
      command({"node", "--tier", "edge", "--model", bench.model, "--listen", "127.0.0.1:0",
               "--log-level", "debug", "--port-file", port_file});
  arguments.insert(arguments.begin(), {"/bin/sh", "-c", "exec \"$@\" 2>/dev/full", "sh"});
  Process node(std::move(arguments));
  REQUIRE(comes_true([&] { return fs::exists(port_file); }));
  check_untouched(bench.run(lines(text_of(port_file)).at(0), 20), 20);
  node.signal(SIGTERM);
  CHECK(node.finish().code == 0);
}

TEST_CASE("a log that nobody reads costs no answer, and says later how much is missing") {
  const Bench bench;
  const std::string port_file = (bench.folder.path() / "addr").string();
  Process node({OFFRAMP_BINARY, "node", "--tier", "edge", "--model", bench.model, "--listen",
                "127.0.0.1:0", "--insecure", "--log-format", "json", "--log-level", "debug",
                "--port-file", port_file});
  REQUIRE(comes_true([&] { return fs::exists(port_file); }));
  const std::string address = lines(text_of(port_file)).at(0);
  {
    // More lines than a pipe takes: each greeting for another model is one.
    offramp::test::RawClient stranger(address);
    for (int i = 0; i < 900; ++i)
      stranger.send(Hello{.session = 1, .model = {}, .cut = 1, .shape = {}});
    while (stranger.receive(milliseconds(500))) {
    }
    check_untouched(bench.run(address, 20, {"--insecure"}), 20);
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
  const Bench bench;
  const fs::path disk = bench.folder.path() / "disk";
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
      command({"node", "--tier", "edge", "--model", bench.model, "--listen", "127.0.0.1:0",
               "--keys", key_folder("edge"), "--port-file", (disk / "addr").string()});
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

// ---- top ----

TEST_CASE("top shows tiers, and one that is not there as such") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  const std::string at = bench.metrics_address("edge");
  check_untouched(bench.run(edge.address, 5), 5);
  const Finished table = offramp({"top", "--once", "--interval", "50ms", "127.0.0.1:1", at});
  CAPTURE(table.out);
  CHECK(table.code == 0);
  CHECK(table.err.empty());
  CHECK(table.out.find('\x1b') == std::string::npos);
  const std::vector<std::string> all = lines(table.out);
  REQUIRE(all.size() >= 3);
  CHECK(all[0].starts_with("TIER"));
  CHECK(all[1].find("unreachable") != std::string::npos);
  CHECK(all[2].starts_with("edge"));
  CHECK(table.out.find("last 100.00 %") != std::string::npos);

  const Finished json = offramp({"top", "--once", "--json", "--interval", "50ms", at});
  const Json tier = Json::parse(json.out).at(0);
  CHECK(tier.at("tier") == "edge");
  CHECK(tier.at("answers") == 5);
  CHECK(tier.at("by_reason") == Json{{"ok", 5}});
  CHECK(tier.at("p99_ms") >= tier.at("p50_ms"));
  CHECK(tier.at("batch") == 1);
  check_refusal(offramp({"top", "--once", "--interval", "50ms", "nowhere:x"}), kUsage, "nowhere");
  CHECK(offramp({"top", "--once", "--interval", "50ms", "127.0.0.1:1"}).code == kUnavailable);
}

TEST_CASE("top reads percentiles, shares and links out of the text") {
  const Page page(R"(# HELP offramp_info What runs here
# TYPE offramp_info gauge
offramp_info{version="1",tier="cloud",model="a \"b\" \\c",model_id="00"} 1
offramp_answers_total{exit="x",reason="ok"} 75
offramp_answers_total{exit="y",reason="late"} 25
offramp_latency_seconds_bucket{le="0.001"} 50
offramp_latency_seconds_bucket{le="0.003"} 90
offramp_latency_seconds_bucket{le="0.01"} 98
offramp_latency_seconds_bucket{le="+Inf"} 100
offramp_batch_size_sum 100
offramp_batch_size_count 40
offramp_link_state{peer="tcp://a:1",state="up"} 0
offramp_link_state{peer="tcp://a:1",state="down"} 1
offramp_link_breaker{peer="tcp://a:1",state="open"} 1
offramp_link_away{peer="tcp://a:1"} 3
offramp_link_window{peer="tcp://a:1"} 64
offramp_link_round_trip_seconds{peer="tcp://a:1"} 0.00025
nonsense{
more nonsense
)");
  const Finished json = offramp({"top", "--once", "--json", "--interval", "50ms", page.address()});
  CAPTURE(json.err);
  const Json tier = Json::parse(json.out).at(0);
  CHECK(tier.at("model") == R"(a "b" \c)");
  CHECK(tier.at("degraded").get<double>() == doctest::Approx(0.25));
  CHECK(tier.at("p50_ms").get<double>() == doctest::Approx(1.0));
  CHECK(tier.at("p99_ms").get<double>() == doctest::Approx(10.0));
  CHECK(tier.at("batch").get<double>() == doctest::Approx(2.5));
  const Json link = tier.at("links").at(0);
  CHECK(link.at("state") == "down");
  CHECK(link.at("breaker") == "open");
  CHECK(link.at("away") == 3);
  CHECK(link.at("round_trip_ms").get<double>() == doctest::Approx(0.25));
  const Page other("hello\n");
  CHECK(offramp({"top", "--once", "--interval", "50ms", other.address()}).out.find("not a node") !=
        std::string::npos);
}

TEST_CASE("top goes on until Ctrl-C, and ends cleanly") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", bench.with_metrics("edge"));
  Process top(command({"top", "--interval", "20ms", bench.metrics_address("edge")}));
  REQUIRE(top.wait_for("edge", seconds(20)));
  CHECK(edge.stop().code == 0);
  REQUIRE(top.wait_for("unreachable", seconds(20)));
  top.signal(SIGINT);
  const Finished finished = top.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
}

}  // namespace offramp::testing
