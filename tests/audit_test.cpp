// Sure answers that are checked by a later exit: the counts, who is asked and when, and the
// program.
#include "net/audit.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/test_puppets.h"
#include "tests/test_site.h"

namespace offramp::testing {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using test::Strings;
using test::Troupe;

Audited checked(int given, int said, std::vector<float> probabilities = {}) {
  return {.given = {.label = given},
          .check = Verdict{.decision = {.label = said, .probability = 0.75f},
                           .probabilities = std::move(probabilities)}};
}

TEST_CASE("audit: what is counted, and how sure it is") {
  Auditor auditor(1.0);
  auditor.take(checked(1, 1, {0.125f, 0.75f, 0.125f}));
  auditor.take(checked(0, 1, {0.125f, 0.75f, 0.125f}));
  auditor.take(checked(1, 1));  // without probabilities that of its class is known
  auditor.take(checked(0, 1));
  auditor.take({.given = {.label = 0}, .sent_bytes = 70});
  const AuditCounts& counts = auditor.counts();
  CHECK(counts.asked == 5);
  CHECK(counts.checked == 4);
  CHECK(counts.agreed == 2);
  CHECK(counts.right == doctest::Approx(0.75 + 0.125 + 0.75));
  CHECK(counts.accuracy() == doctest::Approx(1.625 / 4));
  CHECK(audit_text(counts) ==
        "2 of 4 sure answers that were checked have the class of a later exit (15.0 to 85.0 %), "
        "estimated accuracy 40.6 %; 1 could not be checked; 70 bytes more sent");
  CHECK(audit_text({.asked = 1}) ==
        "0 of 0 sure answers that were checked have the class of a later exit; 1 could not be "
        "checked; 0 bytes more sent");

  // Published values of Wilson's interval.
  const Interval interval = agreement_interval({.checked = 263, .agreed = 81});
  CHECK(interval.low == doctest::Approx(0.2553).epsilon(0.001));
  CHECK(interval.high == doctest::Approx(0.3662).epsilon(0.001));
  const Interval all = agreement_interval({.checked = 10, .agreed = 10});
  CHECK(all.low == doctest::Approx(0.7225).epsilon(0.001));
  CHECK(all.high == doctest::Approx(1.0));
  CHECK(agreement_interval({}).low == 0.0);
}

TEST_CASE("audit: the share that is drawn, and when it is told of") {
  Auditor none(0.0), some(0.25), every(1.0);
  int drawn = 0;
  for (int i = 0; i < 10'000; ++i) {
    CHECK_FALSE(none.draws());
    CHECK(every.draws());
    drawn += some.draws() ? 1 : 0;
  }
  CHECK(drawn > 2'200);  // 7 standard deviations
  CHECK(drawn < 2'800);
  std::vector<int> told;
  for (int i = 1; i <= 250; ++i)
    if (every.take(checked(0, 0))) told.push_back(i);
  CHECK(told == std::vector<int>{100, 200});
  for (const double wrong : {-0.1, 1.1, std::nan("")}) CHECK_THROWS(Auditor(wrong));
}

bool audit(Troupe& tier, milliseconds budget = milliseconds(1000)) {
  return tier.upstream.audit({.own = {.decision = {.label = 2}, .hops = {Hop{}}},
                              .tensor = {.shape = {}, .raw_bytes = 3, .payload = {1, 2, 3}},
                              .answer_by = tier.now + budget + 2 * kTimerMargin},
                             tier.now);
}

TEST_CASE("audit: its answer is no request's, and one is asked at a time") {
  Troupe tier(1);
  REQUIRE(tier.hand_on() == Reason::kNone);
  REQUIRE(audit(tier));
  CHECK(tier.upstream.auditing());
  CHECK_FALSE(audit(tier));
  REQUIRE(tier.nodes[0].got.size() == 2);
  CHECK(tier.nodes[0].got[1].tensor.payload.size() == 3);
  CHECK(tier.upstream.away() == 1);
  CHECK(tier.upstream.links(tier.now)[0].away == 1);
  tier.nodes[0].answer_last();
  CHECK(tier.service().empty());
  CHECK_FALSE(audit(tier));  // not before the last one is told
  const std::optional<Audited> audited = tier.upstream.take_audited();
  REQUIRE(audited);
  CHECK(audited->given.label == 2);
  REQUIRE(audited->check);
  CHECK(audited->check->decision.label == 2);
  CHECK(audited->sent_bytes == 100);
  CHECK_FALSE(tier.upstream.take_audited());
  CHECK(tier.upstream.away() == 1);
  CHECK(audit(tier));
}

TEST_CASE("audit: never in another's way") {
  Troupe tier(1);
  Strings& node = tier.nodes[0];
  node.window = 4;
  REQUIRE(tier.hand_on() == Reason::kNone);
  REQUIRE(audit(tier));
  REQUIRE(tier.hand_on() == Reason::kNone);  // half of the window
  CHECK(node.cancelled.empty());
  REQUIRE(tier.hand_on() == Reason::kNone);
  REQUIRE(node.cancelled.size() == 1);
  CHECK(node.cancelled[0] == node.got[1].request);
  CHECK_FALSE(tier.upstream.auditing());
  const std::optional<Audited> audited = tier.upstream.take_audited();
  REQUIRE(audited);
  CHECK_FALSE(audited->check);
  CHECK_FALSE(audit(tier));
  REQUIRE(tier.hand_on() == Reason::kNone);
  CHECK(tier.hand_on() == Reason::kOverloaded);
  // An answer to what was called back is nobody's, and nothing that came late.
  node.answer(node.got[1].request);
  CHECK(tier.service().empty());
  CHECK(tier.upstream.unmatched() == 0);

  Troupe narrow(1);
  narrow.nodes[0].window = 1;
  CHECK_FALSE(audit(narrow));
  Troupe alone(1, Policy::kLocalOnly);
  CHECK_FALSE(audit(alone));
  Troupe far(1);
  far.nodes[0].events.emplace_back(LinkUp{});
  far.service();
  far.nodes[0].round_trip = milliseconds(2000);
  CHECK_FALSE(audit(far));
}

TEST_CASE("audit: one that fails says nothing about the node, and is not tried again") {
  enum class Way { kFault, kLost, kLate, kDegraded, kGivenUp };
  for (const Way way : {Way::kFault, Way::kLost, Way::kLate, Way::kDegraded, Way::kGivenUp}) {
    CAPTURE(static_cast<int>(way));
    Troupe tier(1);
    Strings& node = tier.nodes[0];
    for (int i = 1; i <= 2 * Breaker::kFailures; ++i) {
      REQUIRE(audit(tier));
      std::vector<Settled> settled;
      if (way == Way::kFault)
        node.fault(i % 2 == 0 ? FaultCode::kExpired : FaultCode::kOverloaded, 60'000'000);
      if (way == Way::kLost) node.lose();
      if (way == Way::kLate) tier.now = tier.upstream.due();
      if (way == Way::kDegraded)
        node.events.emplace_back(Verdict{
            .request = node.got.back().request, .decision = {}, .degraded = Reason::kNoNext});
      if (way == Way::kGivenUp) tier.upstream.give_up(Reason::kLate, tier.now, settled);
      CHECK(tier.service().empty());
      CHECK(settled.empty());
      CHECK_FALSE(tier.upstream.auditing());
      const std::optional<Audited> audited = tier.upstream.take_audited();
      REQUIRE(audited);
      CHECK_FALSE(audited->check);
      CHECK(node.got.size() == static_cast<std::size_t>(i));
      if (way == Way::kLost) node.greet();
      tier.service();
    }
    const LinkStatus link = tier.upstream.links(tier.now)[0];
    CHECK(link.breaker == BreakerState::kClosed);
    CHECK(link.failed == 0);
    CHECK(link.away == 0);
    CHECK(tier.upstream.unmatched() == 0);
  }
}

TEST_CASE("run --audit checks what the device was sure of, and changes no answer") {
  const DataSite site;
  RunningNode edge(site.folder, site.model, "edge");
  const auto label = [&](const char* threshold) {
    const Finished run =
        offramp({"run", "-m", site.model, "--next", edge.address, "--thresholds", threshold,
                 "--deadline", "20s", "--wait", "20s", "--json", site.pictures[0]});
    return Json::parse(run.out).at("label").get<int>();
  };
  // One picture again and again: all its checks say the same.
  const bool agree = label("0") == label("1");
  std::vector<std::string> command = {
      "run", "-m",         site.model,    "--next",          edge.address, "--thresholds",
      "1",   "--deadline", "20s",         "--audit",         "1",          "--every",
      "2ms", "--json",     "--decisions", site.path("a.csv")};
  command.insert(command.end(), 200, site.pictures[0]);
  const Finished run = offramp(command);
  CAPTURE(run.err);
  CHECK(run.code == 0);
  CHECK(statuses(run) == std::map<std::string, int>{{"ok", 200}});
  for (const std::string& line : lines(run.out)) CHECK(Json::parse(line).at("tier") == "device");
  REQUIRE(lines(run.err).size() == 1);
  const std::string told = lines(run.err)[0];
  const std::string agreed = told.substr(std::string("offramp: audit: ").size());
  const int checks = std::stoi(agreed.substr(agreed.find(" of ") + 4));
  CHECK(checks > 0);
  CHECK(std::stoi(agreed) == (agree ? checks : 0));

  const Finished data = offramp({"run", "-m", site.model, "--next", edge.address, "--thresholds",
                                 "1", "--deadline", "20s", "--audit", "0.5", "--every", "2ms",
                                 "--duration", "400ms", "--json", "--data", site.data});
  CAPTURE(data.err);
  CHECK(data.code == 0);
  const Json summary = Json::parse(data.out);
  const int pictures = summary.at("pictures"), asked = summary.at("audit").at("asked");
  CHECK(asked > 0);
  CHECK(asked < pictures);
  CHECK(summary.at("audit").at("checked") == asked);
  CHECK(summary.at("audit").at("sent_bytes") > 100 * asked);
  CHECK(summary.at("sent_bytes") == 0);  // for answers
  check_refusal(offramp({"run", "-m", site.model, "--next", "x:1", "--audit", "1.5", "a.png"}),
                kUsage, "--audit");
}

TEST_CASE("node --audit checks what an edge was sure of, and tells of it") {
  const Site site;
  const std::filesystem::path source = OFFRAMP_SOURCE_DIR;
  const std::string model = (source / "weights/resnet20b.safetensors").string(),
                    samples = (source / "tools/samples").string();
  RunningNode cloud(site.folder, model, "cloud");
  RunningNode edge(site.folder, model, "edge",
                   {"--next", cloud.address, "--thresholds", "0,1", "--audit", "1", "--metrics",
                    "0", "--metrics-port-file", site.path("edge.metrics")});
  const std::string metrics = lines(text_of(site.path("edge.metrics"))).at(0);
  int answers = 0;
  Json audit;
  for (int i = 0; i < 50 && (audit.is_null() || audit.at("asked") < 3); ++i) {
    const Finished run =
        offramp({"run", "-m", model, "--next", edge.address, "--thresholds", "0,1", "--deadline",
                 "20s", "--wait", "20s", "--window", "1", "--json", samples});
    CAPTURE(run.err);
    REQUIRE(run.code == 0);
    for (const std::string& line : lines(run.out)) CHECK(Json::parse(line).at("tier") == "edge");
    answers += static_cast<int>(lines(run.out).size());
    audit = Json::parse(offramp({"top", "--once", "--json", "--interval", "150ms", metrics}).out)
                .at(0)
                .at("audit");
  }
  REQUIRE(audit.is_object());
  CHECK(audit.at("asked") >= 3);
  CHECK(audit.at("asked") <= answers);
  CHECK(audit.at("checked") > 0);
  CHECK(audit.at("agreed") <= audit.at("checked"));
  CHECK(audit.at("accuracy") > 0.0);
  CHECK(offramp({"top", "--once", "--interval", "50ms", metrics}).out.find("audit    ") !=
        std::string::npos);
  const Finished stopped = edge.stop();
  CHECK(stopped.code == 0);
  CHECK(stopped.err.find("sure answers that were checked") != std::string::npos);
  check_refusal(
      offramp({"node", "-m", model, "--tier", "edge", "--listen", "127.0.0.1:0", "--audit", "0.1"}),
      kUsage, "--audit");
}

}  // namespace
}  // namespace offramp::testing
