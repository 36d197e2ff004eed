#include "tests/test_command.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <utility>

namespace offramp::testing {
namespace {

std::vector<std::string> node_arguments(const TempDir& folder, const std::string& model,
                                        const std::string& tier, std::vector<std::string> more) {
  if (std::ranges::find(more, "--listen") == more.end())
    more.insert(more.end(), {"--listen", "127.0.0.1:0"});
  more.insert(more.begin(), {"node", "--tier", tier, "--model", model, "--port-file",
                             (folder.path() / (tier + ".addr")).string()});
  return command(std::move(more));
}

}  // namespace

std::vector<std::string> command(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), OFFRAMP_BINARY);
  return arguments;
}

Finished offramp(std::vector<std::string> arguments, std::map<std::string, std::string> environment,
                 std::string input) {
  return Process(command(std::move(arguments)), std::move(environment), std::move(input)).finish();
}

void check_refusal(const Finished& finished, int code, const std::string& names) {
  INFO("stderr: ", finished.err);
  CHECK_FALSE(finished.timed_out);
  CHECK(finished.code == code);
  CHECK(finished.out.empty());
  CHECK(lines(finished.err).size() == 1);
  CHECK(finished.err.starts_with("offramp: "));
  CHECK(finished.err.find("wanted") != std::string::npos);
  CHECK(finished.err.find("found") != std::string::npos);
  CHECK(finished.err.find(names) != std::string::npos);
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

std::string text_of(const std::filesystem::path& path) {
  const Bytes bytes = read_file(path);
  return {bytes.begin(), bytes.end()};
}

RunningNode::RunningNode(const TempDir& folder, const std::string& model, const std::string& tier,
                         std::vector<std::string> more,
                         std::map<std::string, std::string> environment)
    : process_(node_arguments(folder, model, tier, std::move(more)), std::move(environment)) {
  REQUIRE(process_.wait_for("listening on tcp://", std::chrono::seconds(20)));
  address = lines(text_of(folder.path() / (tier + ".addr"))).at(0);
}

}  // namespace offramp::testing
