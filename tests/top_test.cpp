// `offramp top`: what it shows of tiers that are there, that are not, and that are something else.

#include <doctest/doctest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/test_site.h"
#include "tests/test_wait.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;
using std::chrono::seconds;

/// An HTTP server with one page.
class Page {
 public:
  explicit Page(const std::string& text) {
    server_.Get("/metrics", [text](const httplib::Request&, httplib::Response& response) {
      response.set_content(text, "text/plain");
    });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = beside([this] { server_.listen_after_bind(); });
    CHECK(eventually([this] { return server_.is_running(); }));
  }
  ~Page() { server_.stop(); }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  httplib::Server server_;
  int port_ = 0;
  std::jthread thread_;
};

/// A TCP server that begins an answer for everybody and never ends it.
class Drip {
 public:
  explicit Drip(std::string begun) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    REQUIRE(bind(socket_, reinterpret_cast<const sockaddr*>(&at), size) == 0);
    REQUIRE(listen(socket_, 8) == 0);
    REQUIRE(getsockname(socket_, reinterpret_cast<sockaddr*>(&at), &size) == 0);
    port_ = ntohs(at.sin_port);
    thread_ = beside([this, begun = std::move(begun)](const std::stop_token& stop) {
      std::vector<int> clients;
      while (!stop.stop_requested()) {
        pollfd item{.fd = socket_, .events = POLLIN, .revents = 0};
        if (poll(&item, 1, 100) > 0) {
          clients.push_back(accept(socket_, nullptr, nullptr));
          send(clients.back(), begun.data(), begun.size(), MSG_NOSIGNAL);
        }
        for (const int client : clients) send(client, "x", 1, MSG_NOSIGNAL);
      }
      for (const int client : clients) close(client);
    });
  }
  ~Drip() {
    thread_.request_stop();
    thread_.join();
    close(socket_);
  }
  Drip(const Drip&) = delete;
  Drip& operator=(const Drip&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  int socket_, port_ = 0;
  std::jthread thread_;
};

TEST_CASE("top shows tiers, and one that is not there as such") {
  const Site site;
  MeteredEdge edge(site);
  const std::string& at = edge.metrics;
  check_all_ok(site.patient_run(edge.address, 5), 5);
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

TEST_CASE("top shows no escape sequence of a page, and no count below 0") {
  const Page page(
      "offramp_info{tier=\"edge\\n\033[2J\",model=\"\302\2332J\233\\r\"} 1\n"
      "offramp_answers_total{exit=\"\033]0;x\a\",reason=\"ok\"} -5\n"
      "offramp_queue_depth NaN\n"
      "offramp_in_work 1e300\n"
      "offramp_audit_asked_total -1\n");
  const Finished table = offramp({"top", "--once", "--interval", "50ms", page.address()});
  CAPTURE(table.out);
  CHECK(table.code == 0);
  REQUIRE(lines(table.out).size() >= 2);
  CHECK(lines(table.out)[1].starts_with("edge??[2J "));
  for (const char* obeyed : {"\033", "\a", "\r", "\302\233", "\233"})
    CHECK(table.out.find(obeyed) == std::string::npos);
  const Finished json = offramp({"top", "--once", "--json", "--interval", "50ms", page.address()});
  const Json tier = Json::parse(json.out).at(0);
  CHECK(tier.at("audit").is_null());
  CHECK(tier.at("answers") == 0);
  CHECK(tier.at("queue") == 0);
}

TEST_CASE("health and top end though an answer never does") {
  // One byte now and then: of the first line, of headers, of the text.
  for (const std::string& begun : {std::string(), std::string("HTTP/1.1 200 OK\r\n"),
                                   std::string("HTTP/1.1 200 OK\r\n\r\n")}) {
    CAPTURE(begun);
    Drip drip(begun);
    const auto start = std::chrono::steady_clock::now();
    check_refusal(offramp({"health", drip.address()}), kUnavailable, "no answer");
    CHECK(offramp({"top", "--once", "--interval", "50ms", drip.address()}).code == kUnavailable);
    CHECK(std::chrono::steady_clock::now() - start < seconds(30));
  }
}

TEST_CASE("top goes on until Ctrl-C, and ends cleanly") {
  const Site site;
  MeteredEdge edge(site);
  Process top(command({"top", "--interval", "20ms", edge.metrics}));
  REQUIRE(top.wait_for("edge", seconds(20)));
  CHECK(edge.stop().code == 0);
  REQUIRE(top.wait_for("unreachable", seconds(20)));
  top.signal(SIGINT);
  const Finished finished = top.finish();
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
}

}  // namespace
}  // namespace offramp::testing
