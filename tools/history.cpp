#include "tools/history.h"

#include <chrono>

#include "net/node.h"
#include "tools/device_run.h"

namespace offramp::cli {

History::History(const std::filesystem::path& path) : file_(path) {
  file_.write("time_us,event,id,picture,tier,exit,label,probability,entropy,status,total_us\n");
}

void History::begin_line(const char* event, std::size_t id, std::size_t picture) {
  using std::chrono::steady_clock, std::chrono::microseconds;
  const auto now =
      std::chrono::duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
  line_ = std::to_string(now) + "," + event + "," + std::to_string(id) + "," +
          std::to_string(picture) + ",";
}

void History::begun(std::size_t id, std::size_t picture) {
  begin_line("begun", id, picture);
  file_.write(line_ + ",,,,,,\n");
}

void History::answered(std::size_t id, std::size_t picture, const Outcome& outcome) {
  begin_line("answered", id, picture);
  if (!outcome.answered) {
    file_.write(line_ + ",,,,," + status_of(outcome) + "," + std::to_string(outcome.total_us) +
                "\n");
    return;
  }
  const Decision& decision = outcome.decision;
  file_.write(line_ + tier_name(outcome.tier) + "," + std::to_string(decision.exit) + "," +
              std::to_string(decision.label) + "," + format_hex(decision.probability) + "," +
              format_hex(decision.entropy) + "," + status_of(outcome) + "," +
              std::to_string(outcome.total_us) + "\n");
}

}  // namespace offramp::cli
