// `offramp eval` from outside: its numbers, what they do not depend on, and what it refuses.

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/file.h"
#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;

TEST_CASE("eval says the same however many threads and batches there are") {
  const DataSite site;
  const auto eval = [&](const std::string& batch, const std::string& threads) {
    const Finished finished =
        offramp({"eval", "-m", site.model, "--data", site.data, "--batch", batch, "--threads",
                 threads, "--sweep", "--json", "--thresholds", "0.9", "--logits",
                 site.path("logits"), "--decisions", site.path("decisions")});
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
    CHECK(finished.err.empty());
    Json json = Json::parse(finished.out);
    for (const char* measured :
         {"batch", "threads", "latency_ms", "mean_compute_ms", "pictures_per_second"}) {
      CHECK(json.erase(measured) == 1);
    }
    for (Json& point : json.at("sweep")) {
      CHECK(point.at("time_share").get<double>() > 0.0);
      for (const char* measured : {"mean_ms", "time_share"}) CHECK(point.erase(measured) == 1);
    }
    json["logits"] = read_file(site.path("logits"));
    json["decisions"] = text_of(site.path("decisions"));
    return json;
  };
  const Json one = eval("1", "1");
  CHECK(one.at("samples") == 12);
  CHECK(one.at("logits").size() == 12u * 2u * 3u * 4u);
  CHECK(lines(one.at("decisions").get<std::string>()).size() == 13);
  CHECK(one.at("sweep").size() == 15);
  // At T = 0 nobody leaves early, at 1 everybody does.
  CHECK(one.at("sweep").front().at("macs_share") == 1.0);
  CHECK(one.at("sweep").back().at("macs_share").get<double>() ==
        doctest::Approx(one.at("exits")[0].at("macs").get<double>() /
                        one.at("exits")[1].at("macs").get<double>()));
  CHECK(one == eval("5", "1"));
  CHECK(one == eval("3", "4"));
}

TEST_CASE("a number is decimal, whatever it begins with") {
  const DataSite site;
  const Finished finished =
      offramp({"eval", "-m", site.model, "--data", site.data, "--batch", "010", "--json"});
  REQUIRE(finished.code == 0);
  CHECK(Json::parse(finished.out).at("batch") == 10);
}

TEST_CASE("eval's numbers are those of its own logits") {
  const DataSite site;
  const Finished finished = offramp({"eval", "-m", site.model, "--data", site.data, "--thresholds",
                                     "1", "--json", "--logits", site.path("logits")});
  REQUIRE(finished.code == 0);
  const Json json = Json::parse(finished.out);
  const Bytes bytes = read_file(site.path("logits"));
  // The folder's order: all cats, all dogs, all owls.
  std::vector<int> right(2);
  for (std::size_t sample = 0; sample < 12; ++sample) {
    for (std::size_t exit = 0; exit < 2; ++exit) {
      std::vector<float> logits;
      for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t at = 4 * ((sample * 2 + exit) * 3 + i);
        logits.push_back(std::bit_cast<float>(
            static_cast<std::uint32_t>(bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16) |
            static_cast<std::uint32_t>(bytes[at + 3]) << 24));
      }
      const auto best = std::ranges::max_element(logits) - logits.begin();
      if (best == static_cast<std::ptrdiff_t>(sample / 4)) ++right[exit];
    }
  }
  for (std::size_t exit = 0; exit < 2; ++exit) {
    CHECK(json.at("exits")[exit].at("accuracy").get<double>() ==
          doctest::Approx(right[exit] / 12.0));
  }
  // At T = 1 every picture leaves at the first exit.
  CHECK(json.at("exits")[0].at("share") == 1.0);
  CHECK(json.at("exits")[1].at("taken") == 0);
  CHECK(json.at("exits")[1].at("accuracy_taken").is_null());
  CHECK(json.at("accuracy") == json.at("exits")[0].at("accuracy"));
  CHECK(json.at("mean_macs") == json.at("exits")[0].at("macs"));
}

TEST_CASE("eval refuses bad data sets and outputs before it works") {
  const DataSite site;
  check_refusal(offramp({"eval", "-m", site.model, "--data", site.path("absent")}), kMissing,
                site.path("absent"));
  site.file("cifar/test_batch.bin", Bytes(3000));
  check_refusal(offramp({"eval", "-m", site.model, "--data", site.path("cifar")}), kBadData,
                "test_batch.bin");
  check_refusal(offramp({"eval", "-m", site.model, "--data", site.data, "--logits",
                         site.path("absent/logits")}),
                kCannotWrite, "absent/logits");
}

TEST_CASE("eval --codec f32 decides as eval does, and another codec does not to the bit") {
  const DataSite site;
  const auto decisions = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"eval",   "-m",          site.model,
                                          "--data", site.data,     "--thresholds",
                                          "0",      "--decisions", site.path("csv")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    REQUIRE(offramp(arguments).code == 0);
    return text_of(site.path("csv"));
  };
  const std::string plain = decisions({});
  CHECK(plain == decisions({"--codec", "f32"}));
  CHECK(plain == decisions({"--lz4"}));
  CHECK(plain != decisions({"--codec", "f16"}));
  CHECK(plain != decisions({"--codec", "u8"}));
}

}  // namespace
}  // namespace offramp::testing
