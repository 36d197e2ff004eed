// What a test of the program needs beside it: a folder with a model and pictures, a device's
// command for them, and what came of it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/test_command.h"
#include "tests/test_files.h"

namespace offramp::testing {

struct Site {
  explicit Site(const TestModel& test_model = small_model());

  std::string path(const std::string& name) const { return (folder.path() / name).string(); }
  std::string file(const std::string& name, const Bytes& bytes) const {
    return folder.write(name, bytes).string();
  }

  /// `offramp run` of `count` pictures of which the device answers none itself, in JSON; without
  /// --next where `next` is empty. Number 20 is the marker: who has seen its answer knows that the
  /// device is in the midst of its work.
  std::vector<std::string> run(const std::string& next, int count,
                               std::vector<std::string> more = {}) const;
  /// Runs it to its end, with time for every answer, however busy the machine.
  Finished patient_run(const std::string& next, int count,
                       std::vector<std::string> more = {}) const;

  TempDir folder;
  std::string model, picture, marker;
};

/// With pictures of every class of small_model(), which are a data set for `eval`, too.
struct DataSite : Site {
  explicit DataSite(const TestModel& test_model = small_model());

  std::vector<std::string> pictures;
  std::string data;
};

/// An edge that answers over HTTP, too.
class MeteredEdge : public RunningNode {
 public:
  explicit MeteredEdge(const Site& site, std::vector<std::string> more = {},
                       std::map<std::string, std::string> environment = {});

  std::string metrics;  ///< "127.0.0.1:40001"
};

/// How many pictures of a device's JSON got each status.
std::map<std::string, int> statuses(const Finished& device);
/// `count` pictures, and the whole cascade has answered each of them.
void check_all_ok(const Finished& device, int count);

}  // namespace offramp::testing
