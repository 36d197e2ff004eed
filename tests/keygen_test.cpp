// `offramp keygen`: a pair of keys, and folders of them for all tiers.

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <string>

#include "tests/test_site.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;

unsigned mode_of(const std::string& path) {
  struct stat status = {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777u;
}

TEST_CASE("keygen: a secret for its owner, a public key for the world, and no overwriting") {
  const TempDir folder;
  const std::string path = (folder.path() / "self.key").string(), pub = path + ".pub";
  const mode_t before = umask(0);
  const Finished made = offramp({"keygen", path});
  umask(before);
  CHECK(made.code == 0);
  CHECK(made.err.empty());
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(pub) == 0644);
  CHECK(made.out == text_of(pub));
  CHECK(made.out.size() == 41);
  const std::string secret = text_of(path);
  CHECK(made.out.find(secret.substr(11, 40)) == std::string::npos);

  check_refusal(offramp({"keygen", path}), kCannotWrite, path);
  CHECK(text_of(path) == secret);
  CHECK(text_of(pub) == made.out);
  fs::remove(path);
  check_refusal(offramp({"keygen", path}), kCannotWrite, pub);
  CHECK_FALSE(fs::exists(path));
  const Finished forced = offramp({"keygen", "--force", path});
  CHECK(forced.code == 0);
  CHECK(forced.out != made.out);
  CHECK(text_of(pub) == forced.out);
  CHECK(mode_of(path) == 0600);
  check_refusal(offramp({"keygen", (folder.path() / "absent" / "key").string()}), kCannotWrite,
                "absent/key");
}

TEST_CASE("keygen --tiers makes folders that work together, and leaves what is there") {
  const Site site;
  const std::string root = site.path("tiers");
  const mode_t before = umask(077);
  const Finished made = offramp({"keygen", "--tiers", root});
  umask(before);
  CAPTURE(made.err);
  CHECK(made.code == 0);
  for (const char* open : {"/cloud/allow", "/edge/next.pub", "/edge/self.key.pub"})
    CHECK(mode_of(root + open) == 0644);
  CHECK((made.out + made.err).empty());
  CHECK(mode_of(root + "/edge") == 0700);
  CHECK(mode_of(root + "/device/self.key") == 0600);
  CHECK_FALSE(fs::exists(root + "/cloud/next.pub"));
  CHECK_FALSE(fs::exists(root + "/device/allow"));
  CHECK(text_of(root + "/edge/next.pub") == text_of(root + "/cloud/self.key.pub"));
  CHECK(text_of(root + "/cloud/allow") == "edge " + text_of(root + "/edge/self.key.pub"));
  RunningNode edge(site.folder, site.model, "edge", {"--keys", root + "/edge"});
  const Finished device = offramp(site.run(
      edge.address, 1, {"--deadline", "20s", "--keys", root + "/device", "--wait", "10s"}));
  CAPTURE(device.err);
  CHECK(statuses(device) == std::map<std::string, int>{{"ok", 1}});

  const std::string cloud_key = text_of(root + "/cloud/self.key");
  fs::remove(root + "/device/self.key");
  fs::remove(root + "/device/self.key.pub");
  fs::remove(root + "/edge/allow");
  site.folder.write("tiers/cloud/allow", "any " + text_of(root + "/edge/self.key.pub"));
  CHECK(offramp({"keygen", "--tiers", root}).code == 0);
  CHECK(text_of(root + "/cloud/self.key") == cloud_key);
  CHECK(text_of(root + "/cloud/allow").starts_with("any "));
  CHECK(fs::exists(root + "/device/self.key"));
  check_refusal(offramp({"keygen", "--tiers", site.picture}), kCannotWrite, site.picture);
  // What is there no longer fits: the edge has another key.
  fs::remove_all(root + "/edge");
  check_refusal(offramp({"keygen", "--tiers", root}), kBadModel, "allow: wanted the key");
}

}  // namespace
}  // namespace offramp::testing
