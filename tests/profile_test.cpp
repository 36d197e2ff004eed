// `offramp profile` from outside, and what --tune remembers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "kernels/kernels.h"
#include "tests/test_command.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Environment = std::map<std::string, std::string>;

const std::string kResnet = std::string(OFFRAMP_SOURCE_DIR) + "/weights/resnet20b.safetensors";

/// The shortest measurement: a single run of a network of some size.
Finished profile(std::vector<std::string> arguments, Environment environment = {}) {
  arguments.insert(arguments.begin(), {"profile", "--for", "1us"});
  return offramp(std::move(arguments), std::move(environment));
}

Json profile_json(std::vector<std::string> arguments, Environment environment = {}) {
  arguments.emplace_back("--json");
  const Finished finished = profile(std::move(arguments), std::move(environment));
  CAPTURE(finished.err);
  REQUIRE(finished.code == 0);
  return Json::parse(finished.out);
}

/// The algorithms of all steps, of layers without any "".
std::map<std::string, std::string> algorithms(const Json& json) {
  std::map<std::string, std::string> names;
  for (const Json& step : json.at("steps")) names[step.at("layer")] = step.at("algorithm");
  return names;
}

/// The small model, and a folder for caches.
struct Corner {
  TempDir folder;
  std::string model = folder.write("small.safetensors", small_model().signed_file()).string();
  fs::path cache = folder.path() / "cache";

  Finished tune(Environment more = {}) const {
    more.try_emplace("XDG_CACHE_HOME", cache.string());
    return profile({model, "--tune", "--json"}, more);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    if (!fs::exists(cache)) return all;
    for (const auto& entry : fs::recursive_directory_iterator(cache)) {
      if (!entry.is_directory()) all.push_back(entry.path());
    }
    return all;
  }
};

constexpr char kMeasuring[] = "offramp: measuring the convolutions of small ...";

TEST_CASE("profile lists every step of every tier with its time, speed and algorithm") {
  const Model model = load_model(kResnet);
  const std::set<std::string> paths = {"direct",    "winograd2", "winograd4",
                                       "winograd6", "depthwise", "im2col"};
  for (const int batch : {1, 3, 4}) {
    const int threads = batch == 4 ? 2 : 1;
    CAPTURE(batch);
    CAPTURE(threads);
    const Json json = profile_json(
        {kResnet, "--batch", std::to_string(batch), "--threads", std::to_string(threads)});
    CHECK(json.at("model") == model.name);
    CHECK(json.at("isa") == best_kernels().name);
    CHECK(json.at("batch") == batch);
    CHECK(json.at("threads") == threads);
    CHECK(json.at("runs").get<int>() >= 1);
    CHECK(json.at("peak_gflops_one_core").get<double>() > 0.0);

    const std::vector<Stage> stages =
        make_stages(model, {}, {.max_batch = batch, .threads = threads});
    const std::vector<std::string> tiers = {"device", "edge", "cloud"};
    std::size_t row = 0;
    double sum = 0.0, macs = 0.0;
    for (std::size_t s = 0; s < stages.size(); ++s) {
      for (const StepInfo& step : stages[s].plan().steps()) {
        REQUIRE(row < json.at("steps").size());
        const Json& found = json.at("steps")[row++];
        CAPTURE(step.layer);
        CHECK(found.at("tier") == tiers.at(s));
        CHECK(found.at("layer") == step.layer);
        CHECK(found.at("op") == step.op);
        CHECK(found.at("algorithm") == step.algorithm);
        CHECK((step.op == "conv2d") == paths.contains(found.at("algorithm")));
        CHECK(found.at("in") == to_string(step.in));
        CHECK(found.at("out") == to_string(step.out));
        CHECK(found.at("samples_at_once") == step.samples);
        CHECK(found.at("macs") == step.macs);
        CHECK(found.at("weight_bytes") == step.weight_bytes);
        const double us = found.at("us");
        CHECK(us > 0.0);
        CHECK(found.at("gflops").get<double>() ==
              doctest::Approx(2.0 * step.macs * batch / us / 1e3));
        CHECK(found.at("of_peak").get<double>() ==
              doctest::Approx(found.at("gflops").get<double>() /
                              (json.at("peak_gflops_one_core").get<double>() * threads)));
        CHECK(found.at("gbytes_per_second").get<double>() > 0.0);
        sum += us;
        macs += step.macs;
      }
    }
    CHECK(row == json.at("steps").size());
    const double total = json.at("total_us");
    CHECK(json.at("gflops").get<double>() == doctest::Approx(2.0 * macs * batch / total / 1e3));
    // With more runs, a median of sums is no sum of medians. The rest is between the layers.
    if (json.at("runs") == 1) CHECK(sum <= total);
  }
}

TEST_CASE("profile's table says the same as its JSON, with shares of the whole") {
  const Finished text = profile({kResnet});
  CAPTURE(text.err);
  REQUIRE(text.code == 0);
  CHECK(text.err.empty());
  CHECK(text.out.find('\x1b') == std::string::npos);
  CHECK(text.out.find("batch 1, 1 thread, " + std::string(best_kernels().name)) !=
        std::string::npos);
  const Json json = profile_json({kResnet});
  double shares = 0.0;
  std::size_t row = 0;
  for (const std::string& line : lines(text.out)) {
    CAPTURE(line);
    std::istringstream words(line);
    std::string tier, layer, algorithm, in, out, unit, percent;
    double time = 0.0, share = 0.0;
    words >> tier >> layer >> algorithm >> in >> out >> time >> unit >> share >> percent;
    if (!words || unit != "us" || percent != "%") continue;
    REQUIRE(row < json.at("steps").size());
    const Json& step = json.at("steps")[row++];
    CHECK(tier == step.at("tier"));
    CHECK(layer == step.at("layer"));
    CHECK(algorithm == step.at(step.at("op") == "conv2d" ? "algorithm" : "op"));
    CHECK(in == step.at("in"));
    CHECK(out == step.at("out"));
    CHECK(share >= 0.0);
    shares += share;
  }
  CHECK(row == json.at("steps").size());
  if (text.out.find("medians of 1 runs") != std::string::npos) {
    CHECK(shares <= 100.0 + 0.005 * static_cast<double>(row) + 1e-9);
  }
  CHECK(lines(text.out).back().starts_with("total "));
}

TEST_CASE("profile measures the algorithm and the instruction set that the environment asks for") {
  const Corner corner;
  for (const char* name : {"direct", "winograd2", "winograd4", "winograd6", "im2col"}) {
    CAPTURE(std::string(name));
    CHECK(algorithms(profile_json({corner.model}, {{"OFFRAMP_CONV", name}})).at("conv") == name);
    // Where a layer cannot be computed so, as a stride forbids Winograd, it is not.
    std::set<std::string> found;
    for (const auto& [layer, algorithm] :
         algorithms(profile_json({kResnet}, {{"OFFRAMP_CONV", name}}))) {
      if (!algorithm.empty()) found.insert(algorithm);
    }
    CHECK(found.contains(name));
    found.erase(name);
    found.erase("direct");
    CHECK(found.empty());
  }
  for (const KernelTable* table : available_kernels()) {
    const Json json = profile_json({corner.model}, {{"OFFRAMP_ISA", table->name}});
    CHECK(json.at("isa") == table->name);
  }
  check_refusal(profile({corner.model}, {{"OFFRAMP_CONV", "fft"}}), kUsage, "OFFRAMP_CONV");
  check_refusal(profile({corner.model}, {{"OFFRAMP_ISA", "abacus"}}), kUsage, "OFFRAMP_ISA");
}

TEST_CASE("profile refuses bad models and bad values with one line") {
  const Corner corner;
  check_refusal(profile({(corner.folder.path() / "absent").string()}), kMissing, "absent");
  check_refusal(profile({corner.folder.path().string()}), kMissing, corner.folder.path().string());
  const std::string text = corner.folder.write("text", std::string(500, 'x')).string();
  check_refusal(profile({text}), kBadModel, text);
  check_refusal(profile({text, "--tune"}), kBadModel, text);

  for (const char* option : {"--batch=", "--threads="}) {
    const char* const most = option == std::string("--batch=") ? "1025" : "257";
    for (const char* value : {"0", "-1", most, "1.5", "many", "", "99999999999"}) {
      const std::string argument = std::string(option).append(value);
      CAPTURE(argument);
      const Finished finished = offramp({"profile", corner.model, argument});
      CAPTURE(finished.err);
      CHECK(finished.code == kUsage);
      CHECK(finished.out.empty());
      CHECK(lines(finished.err).size() == 1);
      CHECK(finished.err.find(argument.substr(0, argument.find('='))) != std::string::npos);
      CHECK(finished.err.find("see offramp profile --help") != std::string::npos);
    }
  }
  for (const char* value : {"0s", "-1s", "1", "fast", "1 s", "2h", "nan", "1e9s"}) {
    CAPTURE(std::string(value));
    check_refusal(offramp({"profile", corner.model, std::string("--for=") + value}), kUsage,
                  "--for");
  }
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"--frobnicate"}, {corner.model, "another"}, {"--for"}}) {
    std::vector<std::string> arguments = wrong;
    arguments.insert(arguments.begin(), "profile");
    const Finished finished = offramp(arguments, {{"OFFRAMP_MODEL", corner.model}});
    CAPTURE(finished.err);
    CHECK(finished.code == kUsage);
    CHECK(lines(finished.err).size() == 1);
  }
}

TEST_CASE("--tune measures once, remembers in one file, and then reads that") {
  const Corner corner;
  const Finished first = corner.tune();
  CAPTURE(first.err);
  REQUIRE(first.code == 0);
  CHECK(first.err == std::string(kMeasuring) + "\n");
  REQUIRE(corner.files().size() == 1);
  const fs::path file = corner.files()[0];
  CHECK(file.parent_path() == corner.cache / "offramp");
  Json saved = Json::parse(text_of(file));
  CHECK(saved.at("layers").at("conv") == algorithms(Json::parse(first.out)).at("conv"));

  // Whatever was measured: the file's word counts.
  for (const char* name : {"direct", "winograd2", "winograd6", "im2col"}) {
    CAPTURE(std::string(name));
    saved["layers"]["conv"] = name;
    corner.folder.write(fs::relative(file, corner.folder.path()).string(), saved.dump());
    const Finished second = corner.tune();
    CHECK(second.code == 0);
    CHECK(second.err.empty());
    CHECK(algorithms(Json::parse(second.out)).at("conv") == name);
    // Without --tune nobody reads it.
    const Environment environment = {{"XDG_CACHE_HOME", corner.cache.string()}};
    CHECK(algorithms(profile_json({corner.model}, environment)) ==
          algorithms(profile_json({corner.model})));
  }
  CHECK(corner.files().size() == 1);

  // Another batch, another instruction set: other measurements.
  const Environment environment = {{"XDG_CACHE_HOME", corner.cache.string()}};
  const Finished batch = profile({corner.model, "--tune", "--batch", "2"}, environment);
  CHECK(batch.err == std::string(kMeasuring) + "\n");
  CHECK(corner.files().size() == 2);
  CHECK(corner.tune({{"OFFRAMP_ISA", "scalar"}}).err == std::string(kMeasuring) + "\n");
  CHECK(corner.files().size() == (std::string(best_kernels().name) == "scalar" ? 2 : 3));
}

TEST_CASE("--tune says once that what it remembered is damaged, and measures again") {
  const Corner corner;
  REQUIRE(corner.tune().code == 0);
  REQUIRE(corner.files().size() == 1);
  const fs::path file = corner.files()[0];
  const std::string good = text_of(file);
  std::string other = good;
  const std::string format = "\"format\": ";
  other.replace(other.find(format) + format.size(), 1, "0");
  // To be refused in a moment, not when all keys have been compared with all.
  std::string keys = good.substr(0, good.find("\"layers\"")) + "\"layers\": {";
  for (int i = 0; i < 200'000; ++i) keys += "\"k" + std::to_string(i) + "\":\"direct\",";
  keys += "\"conv\":\"direct\"}}";
  for (const std::string& damaged : {std::string(), std::string("\0\x1b[31m", 6),
                                     good.substr(0, good.size() / 2), other, keys}) {
    CAPTURE(damaged.substr(0, 200));
    corner.folder.write(fs::relative(file, corner.folder.path()).string(), damaged);
    const Finished finished = corner.tune();
    CHECK(finished.code == 0);
    CHECK(Json::parse(finished.out).at("model") == "small");
    const std::vector<std::string> said = lines(finished.err);
    CAPTURE(finished.err);
    REQUIRE(said.size() == 2);
    CHECK(said[0].starts_with("offramp: warning: " + file.string()));
    CHECK(said[1] == kMeasuring);
    CHECK(corner.files().size() == 1);
    CHECK(corner.tune().err.empty());
  }
}

TEST_CASE("--tune goes on where it cannot remember") {
  const Corner corner;
  const auto check_goes_on = [](const Finished& finished, std::size_t warnings) {
    CAPTURE(finished.err);
    CHECK(finished.code == 0);
    CHECK(Json::parse(finished.out).at("model") == "small");
    const std::vector<std::string> said = lines(finished.err);
    REQUIRE(said.size() == 1 + warnings);
    CHECK(said[0] == kMeasuring);
    if (warnings > 0) CHECK(said[1].find("cannot be written") != std::string::npos);
  };
  // A file in the place of the folder stops root too.
  const std::string occupied = corner.folder.write("occupied", std::string("x")).string();
  check_goes_on(corner.tune({{"XDG_CACHE_HOME", occupied}}), 1);
  CHECK(text_of(occupied) == "x");
  check_goes_on(corner.tune({{"XDG_CACHE_HOME", ""}, {"HOME", ""}}), 0);
  check_goes_on(corner.tune({{"XDG_CACHE_HOME", "relative"}, {"HOME", occupied}}), 1);

  REQUIRE(corner.tune().code == 0);
  REQUIRE(corner.files().size() == 1);
  const fs::path file = corner.files()[0];
  fs::remove(file);
  fs::create_directories(file / "something");
  check_goes_on(corner.tune(), 1);
  CHECK(fs::is_directory(file / "something"));
  CHECK(corner.files().empty());

  // The home, when there is no other word.
  const fs::path home = corner.folder.path() / "home";
  check_goes_on(corner.tune({{"XDG_CACHE_HOME", ""}, {"HOME", home.string()}}), 0);
  CHECK(fs::exists(home / ".cache" / "offramp"));
}

TEST_CASE("--tune and an algorithm for all layers exclude each other") {
  const Corner corner;
  for (const char* name : {"direct", "winograd2", "winograd4", "winograd6", "im2col"}) {
    CAPTURE(std::string(name));
    check_refusal(corner.tune({{"OFFRAMP_CONV", name}}), kUsage, "OFFRAMP_CONV");
    check_refusal(
        offramp({"eval", "-m", corner.model, "--data", corner.folder.path().string(), "--tune"},
                {{"OFFRAMP_CONV", name}, {"XDG_CACHE_HOME", corner.cache.string()}}),
        kUsage, "OFFRAMP_CONV");
  }
  CHECK(corner.files().empty());
  CHECK(corner.tune({{"OFFRAMP_CONV", "auto"}}).code == 0);
  CHECK(corner.files().size() == 1);
}

}  // namespace
}  // namespace offramp::testing
