// Tuning results on disk: what was saved comes back, and nothing else ever does.
#include "tools/tuning_cache.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/passes.h"
#include "kernels/kernels.h"
#include "tests/test_command.h"
#include "tests/test_files.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using cli::load_tuning;
using cli::save_tuning;
using cli::tuning_file;
using cli::tuning_key;
using cli::TuningKey;
using Json = nlohmann::ordered_json;

/// What `call` says on stderr.
template <class F>
std::vector<std::string> heard(const TempDir& folder, F&& call) {
  const fs::path file = folder.path() / "stderr";
  const int old = dup(STDERR_FILENO);
  const int to = open(file.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  REQUIRE(dup2(to, STDERR_FILENO) == STDERR_FILENO);
  close(to);
  call();
  dup2(old, STDERR_FILENO);
  close(old);
  return lines(text_of(file));
}

/// An environment variable for a while.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value, 1);
  }
  ~Variable() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

/// A model with one convolution, "conv", and a saved tuning for it.
struct Saved {
  TempDir folder;
  Model model = load_model(folder.write("model.safetensors", small_model().signed_file()));
  TuningKey key = tuning_key(model, {.max_batch = 4, .threads = 2});
  fs::path file = folder.path() / "cache" / "tuning.json";
  ConvPaths paths = {{"conv", ConvPath::kWinograd4}};
  std::string text;

  Saved() {
    save_tuning(file, key, paths);
    text = text_of(file);
  }

  void write(const std::string& what) const { folder.write("cache/tuning.json", what); }
  /// The saved text with something else in it.
  template <class F>
  void write_changed(F&& change) const {
    Json value = Json::parse(text);
    change(value);
    write(value.dump());
  }

  std::optional<ConvPaths> load(std::vector<std::string>& said) const {
    std::optional<ConvPaths> loaded;
    said = heard(folder, [&] { loaded = load_tuning(file, key, model); });
    return loaded;
  }
};

/// Nothing is loaded, and one line says why.
void check_refused(const Saved& saved, const std::string& why) {
  std::vector<std::string> said;
  CHECK_FALSE(saved.load(said).has_value());
  REQUIRE(said.size() == 1);
  CAPTURE(said[0]);
  CHECK(said[0].starts_with("offramp: warning: " + saved.file.string() + ": "));
  CHECK(said[0].find(why) != std::string::npos);
  CHECK(said[0].ends_with("; measuring anew"));
}

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

std::string repeated(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

TEST_CASE("a tuning is read back as it was saved, and nothing is said") {
  Saved saved;
  for (const ConvPaths& paths :
       {ConvPaths{}, ConvPaths{{"conv", ConvPath::kDirect}},
        ConvPaths{{"conv", ConvPath::kWinograd2}}, ConvPaths{{"conv", ConvPath::kWinograd4}},
        ConvPaths{{"conv", ConvPath::kWinograd6}}, ConvPaths{{"conv", ConvPath::kIm2col}}}) {
    saved.write(std::string(10'000, 'x'));  // replaced as a whole
    CHECK(heard(saved.folder, [&] { save_tuning(saved.file, saved.key, paths); }).empty());
    std::vector<std::string> said;
    const std::optional<ConvPaths> loaded = saved.load(said);
    REQUIRE(loaded.has_value());
    CHECK(*loaded == paths);
    CHECK(said.empty());
    CHECK(files_in(saved.file.parent_path()) == 1);
  }
}

TEST_CASE("a tuning's key says all on which it depends, and so does the name of its file") {
  const Saved saved;
  CHECK_FALSE(saved.key.cpu.empty());
  CHECK(saved.key.isa == best_kernels().name);
  CHECK(saved.key.model == full_id(saved.model.id));
  CHECK(saved.key.batch == 4);
  CHECK(saved.key.threads == 2);
  const PlanOptions scalar{.kernels = find_kernels("scalar")};
  CHECK(tuning_key(saved.model, scalar).isa == "scalar");

  const Variable cache("XDG_CACHE_HOME", "/cache");
  std::vector<TuningKey> keys(6, saved.key);
  keys[1].cpu = "another";
  keys[2].isa = "another";
  keys[3].model = std::string(64, '0');
  keys[4].batch = 5;
  keys[5].threads = 3;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) CHECK(tuning_file(keys[i]) != tuning_file(keys[j]));
  }
  // A CPU may be called anything.
  TuningKey odd = saved.key;
  odd.cpu = "../a/b\n\"c\" (R) @ 3 GHz";
  const std::optional<fs::path> file = tuning_file(odd);
  REQUIRE(file.has_value());
  CHECK(file->parent_path() == "/cache/offramp");
  CHECK(file->string().find('\n') == std::string::npos);
}

TEST_CASE("tunings are kept where XDG_CACHE_HOME says, else in the home, else nowhere") {
  const TuningKey key;
  const auto folder = [&](const char* cache, const char* home) {
    const Variable first("XDG_CACHE_HOME", cache), second("HOME", home);
    const std::optional<fs::path> file = tuning_file(key);
    return file ? file->parent_path().string() : "";
  };
  CHECK(folder("/a/cache", "/home/b") == "/a/cache/offramp");
  CHECK(folder("", "/home/b") == "/home/b/.cache/offramp");
  CHECK(folder("relative", "/home/b") == "/home/b/.cache/offramp");
  CHECK(folder("", "relative").empty());
  CHECK(folder("", "").empty());
}

TEST_CASE("where there is no file there is no tuning, and nothing to say") {
  Saved saved;
  std::vector<std::string> said;
  fs::remove(saved.file);
  CHECK_FALSE(saved.load(said).has_value());
  CHECK(said.empty());
  fs::create_symlink("nowhere", saved.file);
  CHECK_FALSE(saved.load(said).has_value());
  CHECK(said.empty());
  fs::remove_all(saved.file.parent_path());
  CHECK_FALSE(saved.load(said).has_value());
  CHECK(said.empty());
}

TEST_CASE("a file cut off anywhere is refused") {
  const Saved saved;
  for (std::size_t size = 0; size <= saved.text.rfind('}'); ++size) {
    CAPTURE(size);
    saved.write(saved.text.substr(0, size));
    check_refused(saved, "damaged");
  }
}

TEST_CASE("a file that is no tuning is refused") {
  const Saved saved;
  for (const std::string& text :
       {std::string("null"), std::string("[]"), std::string("12"), std::string("\"layers\""),
        std::string("{}"), std::string("not JSON"), saved.text + "x", saved.text + saved.text,
        std::string(1000, '\0'), std::string("{\"layers\": {\"\xff\": \"direct\"}}"),
        std::string("\x7f\x45LF\x02\x01\n\x1b[31m")}) {
    CAPTURE(text);
    saved.write(text);
    check_refused(saved, "damaged");
  }
}

TEST_CASE("a file that was made for something else is refused, and what differs is named") {
  const Saved saved;
  struct Other {
    const char* field;
    Json value;
  };
  const std::vector<Other> others = {
      {"format", 0},          {"format", 1},     {"format", "1"},
      {"version", "0.0.1"},   {"version", 0.1},  {"cpu", "abacus"},
      {"cpu", nullptr},       {"isa", "scalar"}, {"model", saved.key.model.substr(0, 16)},
      {"batch", 1},           {"batch", 4.5},    {"batch", "4"},
      {"batch", -4},          {"threads", 1},    {"threads", {2}},
      {"threads", 4294967298}};
  for (const Other& it : others) {
    CAPTURE(std::string(it.field));
    CAPTURE(it.value.dump());
    saved.write_changed([&](Json& json) { json[it.field] = it.value; });
    check_refused(saved, std::string("another ") + it.field);
    saved.write_changed([&](Json& json) { json.erase(it.field); });
    check_refused(saved, std::string("another ") + it.field);
  }
}

TEST_CASE("layers that are not the model's convolutions with known algorithms are refused") {
  const Saved saved;
  const std::vector<Json> wrong = {
      nullptr,
      12,
      "conv",
      Json::array(),
      Json::array({"conv", "direct"}),
      {{"conv", nullptr}},
      {{"conv", 4}},
      {{"conv", true}},
      {{"conv", Json::array({"direct"})}},
      {{"conv", {{"path", "direct"}}}},
      {{"conv", ""}},
      {{"conv", "fft"}},
      {{"conv", "Direct"}},
      {{"conv", "auto"}},  // asks for a choice, and is none
      {{"absent", "direct"}},
      {{"", "direct"}},
      {{"fc1", "im2col"}},  // a layer, but no convolution
      {{"bn", "direct"}},
      {{"conv", "direct"}, {"absent", "direct"}},
  };
  for (const Json& layers : wrong) {
    CAPTURE(layers.dump());
    saved.write_changed([&](Json& json) { json["layers"] = layers; });
    check_refused(saved, "damaged");
  }
  saved.write_changed([&](Json& json) { json.erase("layers"); });
  check_refused(saved, "damaged");
}

TEST_CASE("an algorithm that cannot compute its layer is not used") {
  const Saved saved;
  saved.write_changed([&](Json& json) { json["layers"]["conv"] = "depthwise"; });
  std::vector<std::string> said;
  const std::optional<ConvPaths> loaded = saved.load(said);
  CHECK(said.size() == (loaded ? 0 : 1));
  const FusedGraph fused = fuse(saved.model.graph);
  PlanOptions options{.convolution = ConvAlgorithm::kDirect};
  if (loaded) options.paths = *loaded;
  const Plan plan = Plan::compile(fused.graph, split_at_exits(fused.graph)[0], options);
  CHECK(plan.steps()[0].path == ConvPath::kDirect);
}

TEST_CASE("deep and large files are refused") {
  const Saved saved;
  constexpr int kDeep = 500'000;
  const std::string before = saved.text.substr(0, saved.text.find("\"layers\""));
  const std::vector<std::string> texts = {
      repeated("[", kDeep),
      repeated("{\"layers\":", kDeep / 4),
      repeated("[", kDeep) + repeated("]", kDeep),
      before + "\"layers\": " + repeated("[", kDeep) + repeated("]", kDeep) + "}",
      before + "\"layers\": " + repeated("{\"conv\":", kDeep / 4) + "1" + repeated("}", kDeep / 4) +
          "}",
  };
  for (const std::string& text : texts) {
    CAPTURE(text.substr(0, 20));
    saved.write(text);
    check_refused(saved, "damaged");
  }

  // Nothing but its size is wrong with it.
  saved.write(saved.text + std::string((4u << 20) + 1, ' '));
  check_refused(saved, "wanted a tuning, found");
}

TEST_CASE("what is not a file is not read, and one line says that it cannot be replaced") {
  Saved saved;
  fs::remove(saved.file);
  REQUIRE(mkfifo(saved.file.c_str(), 0600) == 0);
  std::vector<std::string> said;
  CHECK_FALSE(saved.load(said).has_value());  // does not wait for a writer
  CHECK(said.size() <= 1);

  fs::remove(saved.file);
  fs::create_directories(saved.file / "something");
  const std::vector<std::string> all = heard(saved.folder, [&] {
    CHECK_FALSE(load_tuning(saved.file, saved.key, saved.model).has_value());
    save_tuning(saved.file, saved.key, saved.paths);
  });
  REQUIRE(all.size() == 1);
  CHECK(all[0].find(saved.file.string() + ": cannot be written") != std::string::npos);
  CHECK(fs::is_directory(saved.file / "something"));
  CHECK(files_in(saved.file.parent_path()) == 1);
}

TEST_CASE("a folder that cannot be made or written is one warning") {
  const Saved saved;
  // Also for root, who may write anywhere: below a file, and where the kernel lets nobody.
  for (const fs::path& file :
       {saved.folder.write("file", "x") / "offramp" / "tuning.json",
        fs::path("/proc/offramp/tuning.json"), fs::path("/dev/null/tuning.json"),
        saved.folder.path() / std::string(300, 'n') / "tuning.json"}) {
    CAPTURE(file);
    const std::vector<std::string> said =
        heard(saved.folder, [&] { save_tuning(file, saved.key, saved.paths); });
    REQUIRE(said.size() == 1);
    CHECK(said[0].starts_with("offramp: warning: " + file.string() + ": cannot be written"));
    std::vector<std::string> more = heard(
        saved.folder, [&] { CHECK_FALSE(load_tuning(file, saved.key, saved.model).has_value()); });
    CHECK(more.size() <= 1);
  }
  CHECK(text_of(saved.folder.path() / "file") == "x");
}

}  // namespace
}  // namespace offramp::testing
