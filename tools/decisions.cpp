#include "tools/decisions.h"

namespace offramp::cli {

void write_decisions(OutputFile& file, const std::vector<DecisionRow>& rows) {
  file.write("index,label,exit,probability,entropy,status\n");
  for (const DecisionRow& row : rows) {
    if (!row.answered) {
      file.write(std::to_string(row.index) + ",,,,," + row.status + "\n");
      continue;
    }
    const Decision& decision = row.decision;
    file.write(std::to_string(row.index) + "," + std::to_string(decision.label) + "," +
               std::to_string(decision.exit) + "," + format_hex(decision.probability) + "," +
               format_hex(decision.entropy) + "," + row.status + "\n");
  }
  file.close();
}

}  // namespace offramp::cli
