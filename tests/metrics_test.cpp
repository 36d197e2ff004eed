// What a node tells over HTTP, and that nobody who asks, reads slowly or not at all costs an
// answer.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/test_models.h"
#include "tests/test_site.h"
#include "tests/test_wait.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kPatience{30000}, kInterval{20};

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

  /// All that comes until the other side closes, or for so long.
  std::string receive() const {
    std::string all;
    std::array<char, 4096> piece{};
    pollfd item{.fd = socket_, .events = POLLIN, .revents = 0};
    while (poll(&item, 1, static_cast<int>(kPatience.count())) > 0) {
      const ssize_t got = recv(socket_, piece.data(), piece.size(), 0);
      if (got <= 0) break;
      all.append(piece.data(), static_cast<std::size_t>(got));
    }
    return all;
  }
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

}  // namespace

TEST_CASE("metrics of a node add up to what a device has seen") {
  const Site site;
  MeteredEdge edge(site);
  const std::string& at = edge.metrics;
  CHECK(at.starts_with("127.0.0.1:"));
  check_all_ok(site.patient_run(edge.address, 7, {"--codec", "u8"}), 7);

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
      offramp({"run", "--model", site.model, "--next", edge.address, "--thresholds", "0",
               "--insecure", "--deadline", "300ms", site.picture});
  CHECK(stranger.code == kUnavailable);
  CHECK(eventually([&] { return metric(at, "offramp_denied_total") > 0; }, kPatience, kInterval));
}

TEST_CASE("an address for metrics that cannot be had is an error before the node starts") {
  const Site site;
  MeteredEdge edge(site);
  const auto second = [&](const std::string& address) {
    return offramp({"node", "--tier", "edge", "--model", site.model, "--listen", "127.0.0.1:0",
                    "--metrics", address});
  };
  check_refusal(second(edge.metrics), kUnavailable, "--metrics " + edge.metrics);
  check_refusal(second("nowhere.invalid:0"), kUnavailable, "nowhere.invalid");
  for (const char* wrong : {"x", "1:2:", "127.0.0.1:65536", "127.0.0.1:-1", "http://a/b:1"}) {
    CAPTURE(wrong);
    check_refusal(second(wrong), kUsage, "--metrics");
  }
}

TEST_CASE("health: stuck workers make a node unready and then dead, and a drain makes it unready") {
  // 10^12 multiplications in scalar code: minutes.
  const Site site(lopsided_model(512, 255));
  const std::string plain = site.file("plain.png", encode_png(random_picture(1, 1, 1)));
  MeteredEdge edge(site, {"--drain", "4s"},
                   {{"OFFRAMP_ISA", "scalar"}, {"OFFRAMP_CONV", "direct"}});
  const std::string& at = edge.metrics;
  CHECK(get(at, "/health/live").status == 200);
  const Finished device =
      offramp({"run", "--model", site.model, "--next", edge.address, "--thresholds", "0", "--codec",
               "u8", "--lz4", "--deadline", "2s", "--wait", "15s", plain});
  CAPTURE(device.err);
  CHECK(device.code == kUnavailable);
  Answer ready;
  CHECK(eventually([&] { return (ready = get(at, "/health/ready")).status == 503; }, kPatience,
                   kInterval));
  CHECK(ready.body.starts_with("the workers have not answered for "));
  CHECK(lines(ready.body).size() == 1);
  check_refusal(offramp({"health", at}), kUnavailable, "the workers have not answered for ");
  Answer live;
  CHECK(eventually([&] { return (live = get(at, "/health/live")).status == 503; }, kPatience,
                   kInterval));
  CHECK(live.body.starts_with("the workers have not answered for "));
  CHECK(metric(at, "offramp_in_work") == 1);
  edge.signal(SIGTERM);
  CHECK(eventually([&] { return get(at, "/health/ready").body == "draining\n"; }, kPatience,
                   kInterval));
  CHECK(edge.finish().code == kUnavailable);
}

TEST_CASE("HTTP clients that hang, flood or never read cost no answer, and others get theirs") {
  const Site site;
  MeteredEdge edge(site);
  const std::string& at = edge.metrics;
  const std::size_t before = descriptors_of(edge.id());
  std::vector<std::unique_ptr<Connection>> hung;
  for (int i = 0; i < 60; ++i) {
    hung.push_back(std::make_unique<Connection>(at));
    if (i % 3 == 1) hung.back()->send("GET /metrics HTTP/1.1\r\nHost: a");
    if (i % 3 == 2) hung.back()->send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
  }
  std::jthread flood = beside([&](const std::stop_token& stop) {
    const std::string header = "X-Long: " + std::string(4000, 'x') + "\r\n";
    while (!stop.stop_requested()) {
      const Connection connection(at);
      std::this_thread::sleep_for(milliseconds(5));
      connection.send("GET /metrics HTTP/1.1\r\n");
      for (int i = 0; i < 100 && connection.send(header); ++i) {
      }
    }
  });
  check_all_ok(site.patient_run(edge.address, 100), 100);
  CHECK(descriptors_of(edge.id()) < before + 16);
  CHECK(eventually([&] { return get(at, "/health/live").status == 200; }, kPatience, kInterval));
  check_all_ok(site.patient_run(edge.address, 20), 20);
  flood.request_stop();
  flood.join();
  hung.clear();
  CHECK(eventually([&] { return get(at, "/metrics").status == 200; }, kPatience, kInterval));
  CHECK(edge.stop().code == 0);
}

TEST_CASE(
    "no header of an HTTP request changes the answer or harms the node, and it takes no bodies") {
  const Site site;
  MeteredEdge edge(site);
  const auto answer = [&](const std::string& request) {
    const Connection connection(edge.metrics);
    CHECK(eventually([&] { return connection.send(request); }, kPatience, kInterval));
    return connection.receive();
  };
  std::string ranges = "0-0";
  while (ranges.size() < 8000) ranges += ",0-0";
  for (const std::string& header :
       {"Range: bytes=" + ranges, std::string("Range: bytes=99999999999999999999-"),
        std::string("Range: bytes=18446744073709551615-"), std::string("Range: bytes=-"),
        std::string("range: bytes=5-2"), std::string("Content-Encoding: gzip"),
        std::string("Content-Length: 99999999999999999999"), std::string("Expect: 100-continue"),
        std::string("Transfer-Encoding: chunked")}) {
    CAPTURE(header);
    const std::string got = answer("GET /health/live HTTP/1.1\r\n" + header + "\r\n\r\n");
    CHECK(got.starts_with("HTTP/1.1 200 "));
    CHECK(got.ends_with("\r\n\r\nok\n"));
  }
  CHECK(answer("HEAD /metrics HTTP/1.0\n\n").starts_with("HTTP/1.1 200 "));
  for (const char* method : {"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PRI"}) {
    CAPTURE(method);
    const std::string got = answer(std::string(method) +
                                   " /metrics HTTP/1.1\r\nContent-Encoding: gzip\r\n"
                                   "Transfer-Encoding: chunked\r\n\r\n");
    CHECK(got.starts_with("HTTP/1.1 405 "));
    CHECK(got.find("Allow: GET, HEAD\r\n") != std::string::npos);
  }
  CHECK(edge.stop().code == 0);
}

TEST_CASE("a node ends at once while an HTTP client hangs") {
  const Site site;
  MeteredEdge edge(site);
  const Connection hung(edge.metrics);
  hung.send("GET /met");
  const auto start = std::chrono::steady_clock::now();
  CHECK(edge.stop().code == 0);
  CHECK(std::chrono::steady_clock::now() - start < seconds(5));
}

}  // namespace offramp::testing
