// The `offramp` command in tests: run to its end, or as a node beside the test.
#pragma once

#include <signal.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "tests/test_files.h"
#include "tests/test_process.h"

namespace offramp::testing {

// Exit codes as `offramp --help` documents them.
inline constexpr int kUsage = 64, kBadData = 65, kMissing = 66, kUnavailable = 69,
                     kCannotWrite = 73, kBadModel = 78;

/// Folders of keys for --keys, one for each of device, edge and cloud, that fit together.
std::string key_folder(const std::string& tier);

/// The arguments with the program before them. `run`, `load` and `node` get the keys of their tier
/// unless they name some themselves or say --insecure.
std::vector<std::string> command(std::vector<std::string> arguments);

/// Runs the program to its end.
Finished offramp(std::vector<std::string> arguments,
                 std::map<std::string, std::string> environment = {}, std::string input = {});

/// The promise of every failure: code, one line that says what was wanted and what was found, and
/// holds `names`.
void check_refusal(const Finished& finished, int code, const std::string& names = "");

std::vector<std::string> lines(const std::string& text);
std::string text_of(const std::filesystem::path& path);

/// A node that listens once the constructor returns.
class RunningNode {
 public:
  /// `more` holds further options; without --listen it takes a free port. Writes TIER.addr to
  /// `folder`.
  RunningNode(const TempDir& folder, const std::string& model, const std::string& tier,
              std::vector<std::string> more = {},
              std::map<std::string, std::string> environment = {});

  pid_t id() const { return process_.id(); }
  void signal(int number) const { process_.signal(number); }
  /// True once it has said so.
  bool wait_for(const std::string& text) {
    return process_.wait_for(text, std::chrono::seconds(20));
  }
  Finished finish() { return process_.finish(); }
  Finished stop(int number = SIGTERM) {
    signal(number);
    return finish();
  }

  std::string address;  ///< "tcp://127.0.0.1:40001"

 private:
  Process process_;
};

}  // namespace offramp::testing
