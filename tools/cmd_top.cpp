// offramp top: what tiers are doing, as they tell it at --metrics.

#include <unistd.h>

#include <chrono>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tools/audits.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/scrape.h"
#include "tools/signals.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;
using Views = std::vector<TierView>;
using std::chrono::milliseconds;

std::string whole(double count) { return format_grouped(whole_count(count)); }

std::string shares_text(const std::map<std::string, double>& counts, double all) {
  std::string text;
  for (const auto& [name, count] : counts)
    text += (text.empty() ? "" : ", ") + name + " " + format_percent(count / all);
  return text;
}

std::string link_text(const TierView::Link& link) {
  return link.peer + " " + link.state + ", " + whole(link.away) + " of " + whole(link.window) +
         " away" +
         (link.round_trip_us > 0.0 ? ", round trip " + format_ms(link.round_trip_us)
                                   : std::string()) +
         (link.breaker == "closed" ? std::string() : ", breaker " + link.breaker);
}

/// What would be looked into: empty when all is well.
std::string trouble_text(const TierView& view) {
  std::string text;
  const auto add = [&text](double count, const char* what) {
    if (count > 0.0) text += (text.empty() ? "" : ", ") + whole(count) + " " + what;
  };
  add(view.faults, "faults");
  add(view.expired, "expired");
  add(view.malformed, "malformed");
  add(view.denied, "not let in");
  return text;
}

std::string views_text(const Views& views) {
  using enum Table::Align;
  Table table({{"TIER"},
               {"ADDRESS"},
               {"STATE"},
               {"ANSWERS", kRight},
               {"RATE", kRight},
               {"P50", kRight},
               {"P99", kRight},
               {"QUEUE", kRight},
               {"IN WORK", kRight},
               {"BATCH", kRight},
               {"DEGRADED", kRight}});
  std::string details;
  for (const TierView& view : views) {
    if (!view.reached) {
      table.add({"-", view.address, view.state}, Style::kWarn);
      continue;
    }
    const auto time = [](std::optional<double> us) { return us ? format_ms(*us) : "-"; };
    table.add({view.tier, view.address, view.state, whole(view.answers),
               format_fixed(view.rate, 1) + "/s", time(view.p50_us), time(view.p99_us),
               whole(view.queue), whole(view.in_work),
               view.batch ? format_fixed(*view.batch, 2) : "-", format_percent(view.degraded)},
              view.state == "up" && view.degraded == 0.0 ? Style::kPlain : Style::kWarn);
    details += "\n" + view.tier + " " + view.address + ", " + view.model + ", " +
               whole(view.sessions) + (view.sessions == 1.0 ? " peer\n" : " peers\n");
    if (view.answers > 0.0) {
      details += "  exits    " + shares_text(view.by_exit, view.answers) + "\n";
      details += "  answers  " + shares_text(view.by_reason, view.answers) + "\n";
    }
    if (view.audits.asked > 0) details += "  audit    " + audit_text(view.audits) + "\n";
    for (const TierView::Link& link : view.links) details += "  next     " + link_text(link) + "\n";
    if (const std::string trouble = trouble_text(view); !trouble.empty())
      details += "  trouble  " + trouble + "\n";
  }
  return table.text() + details;
}

Json views_json(const Views& views) {
  Json all = Json::array();
  for (const TierView& view : views) {
    Json value = {{"address", view.address}, {"state", view.state}, {"reached", view.reached}};
    if (view.reached) {
      const auto ms = [](std::optional<double> us) { return us ? Json(*us / 1e3) : Json(); };
      Json links = Json::array();
      for (const TierView::Link& link : view.links) {
        links.push_back({{"peer", link.peer},
                         {"state", link.state},
                         {"breaker", link.breaker},
                         {"away", link.away},
                         {"window", link.window},
                         {"round_trip_ms", link.round_trip_us / 1e3}});
      }
      value.update({{"tier", view.tier},
                    {"model", view.model},
                    {"answers", view.answers},
                    {"rate", view.rate},
                    {"by_exit", view.by_exit},
                    {"by_reason", view.by_reason},
                    {"degraded", view.degraded},
                    {"p50_ms", ms(view.p50_us)},
                    {"p99_ms", ms(view.p99_us)},
                    {"queue", view.queue},
                    {"in_work", view.in_work},
                    {"away", view.away},
                    {"sessions", view.sessions},
                    {"batch", view.batch ? Json(*view.batch) : Json()},
                    {"faults", view.faults},
                    {"expired", view.expired},
                    {"malformed", view.malformed},
                    {"denied", view.denied},
                    {"audit", audit_json(view.audits)},
                    {"links", links}});
    }
    all.push_back(std::move(value));
  }
  return all;
}

class Top : public Command {
 public:
  explicit Top(CLI::App& root)
      : Command(root.add_subcommand("top", "Watch what tiers are doing, live")) {
    app()
        ->add_option("ADDRESS", addresses_, "where each tier's node --metrics listens")
        ->required()
        ->option_text("HOST:PORT ...");
    app()->add_option("--interval", interval_, "between two readings [1s]")->type_name("TIME");
    app()->add_flag("--once", once_, "two readings, one table, and an end");
    app()->add_flag("--json", json_, "JSON: a list of the tiers, one line a reading");
    app()->footer(
        "Rate, percentiles, batch and degraded share are those since the last reading, or\n"
        "of all there was where nothing has come since. A tier that is not reached is\n"
        "shown as such. Ctrl-C ends it.\n"
        "\n"
        "Examples:\n"
        "  offramp top 9101 9102\n"
        "  offramp top --once --json edge.local:9101");
  }

  int run() override {
    const auto interval = std::chrono::ceil<milliseconds>(parse_duration("--interval", interval_));
    std::vector<HttpAddress> tiers;
    for (const std::string& text : addresses_) tiers.push_back(parse_http_address("top", text, 1));
    const StopFlag stop;
    std::vector<Reading> before = fetch_all(tiers);
    bool reached = false;
    while (!stop.wait_for(interval)) {
      const std::vector<Reading> now = fetch_all(tiers);
      Views views;
      for (std::size_t i = 0; i < tiers.size(); ++i) {
        views.push_back(view_of(tiers[i], before[i], now[i]));
        reached = reached || views.back().reached;
      }
      show(views);
      if (once_) break;
      before = now;
    }
    if (!once_) return 0;
    stop.check();
    if (reached) return 0;
    complain("top: wanted a tier that answers, found none");
    return static_cast<int>(ErrorKind::kUnavailable);
  }

 private:
  /// All at once, so that one that is slow does not keep the others.
  static std::vector<Reading> fetch_all(const std::vector<HttpAddress>& tiers) {
    std::vector<std::future<Reading>> pending;
    for (const HttpAddress& tier : tiers)
      pending.push_back(std::async(std::launch::async, [&tier] { return fetch(tier); }));
    std::vector<Reading> readings;
    for (std::future<Reading>& each : pending) readings.push_back(each.get());
    return readings;
  }

  void show(const Views& views) const {
    if (json_) {
      print_json(views_json(views));
      return;
    }
    // Home, the new text over the old, and the rest cleared: no flicker.
    const bool live = !once_ && isatty(STDOUT_FILENO) == 1;
    std::string text = views_text(views);
    if (live) {
      for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 4)
        text.insert(at, "\x1b[K");
      text = "\x1b[H" + text + "\x1b[J";
    }
    print(text);
  }

  std::vector<std::string> addresses_;
  std::string interval_ = "1s";
  bool once_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_top(CLI::App& root) { return std::make_unique<Top>(root); }

}  // namespace offramp::cli
