#include "tests/test_command.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "engine/file.h"
#include "net/keys.h"

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

/// The folders of key_folder(), for all tests of one process.
class KeyFolders {
 public:
  KeyFolders() {
    const KeyPair device = make_key_pair(), edge = make_key_pair(), cloud = make_key_pair();
    fill("device", device, &edge, {});
    fill("edge", edge, &cloud, "device " + device.own.text() + " camera\n");
    fill("cloud", cloud, nullptr, "edge " + edge.own.text() + " edge-1\n");
  }
  std::string of(const std::string& tier) const { return (folder_.path() / tier).string(); }

 private:
  void fill(const std::string& tier, const KeyPair& own, const KeyPair* next,
            const std::string& allow) const {
    folder_.write(tier + "/allow", allow);
    if (next != nullptr) folder_.write(tier + "/next.pub", next->own.text() + "\n");
    write_key_pair(folder_.path() / tier / "self.key", own, false);
  }

  TempDir folder_;
};

bool names(const std::vector<std::string>& arguments, const std::string& option) {
  return std::ranges::any_of(arguments, [&](const std::string& argument) {
    return argument == option || argument.starts_with(option + "=");
  });
}

/// The tier whose keys the command takes; "" for one that takes none.
std::string tier_of(const std::vector<std::string>& arguments) {
  if (arguments.empty() || names(arguments, "--keys") || names(arguments, "--insecure") ||
      names(arguments, "--help"))
    return "";
  if (arguments[0] == "run" || arguments[0] == "load") return "device";
  if (arguments[0] != "node") return "";
  return std::ranges::find(arguments, "cloud") != arguments.end() ? "cloud" : "edge";
}

}  // namespace

std::string key_folder(const std::string& tier) {
  static const KeyFolders folders;
  return folders.of(tier);
}

std::vector<std::string> command(std::vector<std::string> arguments) {
  if (const std::string tier = tier_of(arguments); !tier.empty())
    arguments.insert(arguments.end(), {"--keys", key_folder(tier)});
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
  REQUIRE(process_.wait_for("listening on ", std::chrono::seconds(20)));
  address = lines(text_of(folder.path() / (tier + ".addr"))).at(0);
}

}  // namespace offramp::testing
