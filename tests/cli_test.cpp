// The `offramp` command from outside: what it prints, where, and with which exit code.

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "tests/test_site.h"
#include "tools/output.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::seconds;

std::string as_text(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

// ---- help ----

TEST_CASE("help and version go to stdout and are a success") {
  const Finished version = offramp({"--version"});
  CHECK(version.code == 0);
  CHECK(version.out.starts_with("offramp "));
  CHECK(lines(version.out).size() == 1);
  for (const char* name : {"", "classify", "eval", "inspect", "profile", "node", "run", "demo",
                           "load", "keygen", "top", "health", "config"}) {
    CAPTURE(name);
    std::vector<std::string> arguments = {"--help"};
    if (*name != '\0') arguments.insert(arguments.begin(), name);
    const Finished help = offramp(arguments);
    CHECK(help.code == 0);
    CHECK(help.err.empty());
    CHECK(help.out.find("Usage: offramp") != std::string::npos);
    CHECK(help.out.find("Examples:") != std::string::npos);
    for (const std::string& line : lines(help.out)) {
      CAPTURE(line);
      CHECK(line.size() <= 100);
    }
  }
}

TEST_CASE("wrong options end with 64, one line and where to read on") {
  const DataSite site;
  const std::string& picture = site.pictures[0];
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"frobnicate"},
      {"--frobnicate"},
      {"classify"},
      {"classify", "--frobnicate", picture},
      {"eval"},
      {"eval", "--data"},
      {"eval", "--data", site.data, "--limit", "0"},
      {"eval", "--data", site.data, "--limit", "many"},
      {"eval", "--data", site.data, "--codec", "u9"},
      {"run", "--next", "127.0.0.1:1", "--codec", "", picture},
      {"eval", "--data", site.data, "--batch", "-3"},
      {"eval", "--data", site.data, "--threads", "1.5"},
      {"node", "--tier", "moon", "--listen", "127.0.0.1:0"},
      {"node", "--tier", "edge"},
      {"keygen"},
      {"keygen", "--tiers", site.data, picture},
      {"keygen", "--tiers", site.data, "--force"},
      {"top"},
      {"health"},
      {"health", "--live"},
      {"config"},
      {"config", "check"},
      {"run", "--next", "127.0.0.1:1", "--insecure", "--keys", site.data, picture},
      {"run", "--next", "127.0.0.1:1", "--data", site.data, picture},
  };
  for (const std::vector<std::string>& arguments : wrong) {
    std::string shown;
    for (const std::string& argument : arguments) shown += argument + " ";
    CAPTURE(shown);
    const Finished finished = offramp(arguments, {{"OFFRAMP_MODEL", site.model}});
    CAPTURE(finished.err);
    CHECK(finished.code == kUsage);
    CHECK(finished.out.empty());
    CHECK(lines(finished.err).size() == 1);
    CHECK(finished.err.find("see offramp") != std::string::npos);
    CHECK(finished.err.find("--help") != std::string::npos);
  }
}

TEST_CASE("an unknown option is named even when another one is missing") {
  check_refusal(offramp({"eval", "--frobnicate"}), kUsage, "'--frobnicate'; see offramp eval");
}

// ---- pictures ----

TEST_CASE("classify answers in text and in JSON lines") {
  const DataSite site;
  const Finished text = offramp({"classify", "-m", site.model, site.pictures[0]});
  CHECK(text.code == 0);
  CHECK(text.err.empty());
  REQUIRE(lines(text.out).size() == 2);
  CHECK(text.out.find('\x1b') == std::string::npos);

  const Finished json =
      offramp({"classify", "-m", site.model, "--json", site.pictures[0], site.pictures[1]});
  CHECK(json.code == 0);
  REQUIRE(lines(json.out).size() == 2);
  const Json answer = Json::parse(lines(json.out)[0]);
  CHECK(answer.at("picture") == site.pictures[0]);
  CHECK(answer.at("probability").get<double>() > 1.0 / 3.0 - 1e-6);
  CHECK(answer.at("unit") == "normalised");
  CHECK((answer.at("exit") == "first" || answer.at("exit") == "last"));
  CHECK(answer.at("compute_ms").get<double>() > 0.0);
}

TEST_CASE("a folder stands for the pictures in it, in order of their names") {
  const DataSite site;
  const fs::path folder = fs::path(site.pictures[0]).parent_path();
  site.folder.write("data/cat/notes.txt", "no picture");
  site.folder.write("data/cat/LAST.PNG", encode_png(random_picture(4, 4, 9)));
  const Finished finished =
      offramp({"classify", "-m", site.model, "--json", folder.string(), site.pictures[1]});
  CHECK(finished.code == 0);
  std::vector<std::string> names;
  for (const std::string& line : lines(finished.out))
    names.push_back(fs::path(std::string(Json::parse(line).at("picture"))).filename());
  CHECK(names == std::vector<std::string>{"0.png", "3.png", "6.png", "9.png", "LAST.PNG", "1.png"});
}

TEST_CASE("a picture may come from standard input") {
  const DataSite site;
  const std::string bytes = as_text(encode_png(random_picture(4, 4, 1)));
  const Finished piped = offramp({"classify", "-m", site.model, "--json", "-"}, {}, bytes);
  const Finished named = offramp({"classify", "-m", site.model, "--json", site.pictures[0]});
  REQUIRE(piped.code == 0);
  CHECK(Json::parse(piped.out).at("probability") == Json::parse(named.out).at("probability"));
  check_refusal(offramp({"classify", "-m", site.model, "-"}), kBadData, "standard input");
}

TEST_CASE("thresholds decide which exit answers, in either unit") {
  const DataSite site;
  const auto exit_at = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"classify", "-m", site.model, "--json", site.pictures[0]});
    const Finished finished = offramp(options);
    REQUIRE(finished.code == 0);
    return Json::parse(finished.out);
  };
  CHECK(exit_at({"--thresholds", "0"}).at("exit") == "last");
  CHECK(exit_at({"--thresholds", "1"}).at("exit") == "first");
  const Json nats = exit_at({"--thresholds", "1.09", "--nats"});
  const Json normalised = exit_at({"--thresholds", "0.9922"});
  CHECK(nats.at("exit") == normalised.at("exit"));
  CHECK(nats.at("unit") == "nats");
  CHECK(nats.at("entropy").get<double>() ==
        doctest::Approx(normalised.at("entropy").get<double>() * std::log(3.0)).epsilon(1e-9));
}

/// A BMP's headers, without pixels.
Bytes bmp_header(std::uint32_t width, std::uint32_t height) {
  Bytes bytes = {'B', 'M'};
  const auto put = [&](std::uint32_t value, int count) {
    for (int i = 0; i < count; ++i) bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  };
  for (std::uint32_t value : {1078u, 0u, 54u, 40u, width, height}) put(value, 4);
  put(1, 2);
  put(24, 2);
  for (int i = 0; i < 6; ++i) put(0, 4);
  return bytes;
}

/// The beginning of a PNG: signature, IHDR, and an IDAT of nothing.
Bytes png_start(std::uint32_t width, std::uint32_t height, std::uint8_t bits) {
  Bytes header;
  for (std::uint32_t side : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      header.push_back(static_cast<std::uint8_t>(side >> shift));
    }
  }
  header.insert(header.end(), {bits, 2, 0, 0, 0});
  Bytes bytes = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  for (const Bytes& chunk :
       {png_chunk("IHDR", header), png_chunk("IDAT", Bytes(16)), png_chunk("IEND", {})}) {
    bytes.insert(bytes.end(), chunk.begin(), chunk.end());
  }
  return bytes;
}

TEST_CASE("a bad picture ends with 65 or 66 and one line that names it") {
  const DataSite site;
  const Bytes good = encode_png(random_picture(4, 4, 1));
  const std::string text = "this is not a picture, however long one looks at it";
  struct Bad {
    std::string path;
    int code;
  };
  const std::vector<Bad> bad = {
      {site.file("empty.png", {}), kBadData},
      {site.file("truncated.png", Bytes(good.begin(), good.begin() + 45)), kBadData},
      {site.file("text.jpg", Bytes(text.begin(), text.end())), kBadData},
      {site.file("huge.bmp", bmp_header(60000, 60000)), kBadData},
      {site.file("huge.png", png_start(60000, 60000, 8)), kBadData},
      {site.file("deep.png", png_start(4, 4, 16)), kBadData},
      {site.data, kMissing},
      {site.path("absent.png"), kMissing},
      {site.path("new\nline\x1b[31m.png"), kMissing},
  };
  for (const Bad& one : bad) {
    CAPTURE(one.path);
    const Finished finished = offramp({"classify", "-m", site.model, one.path});
    const bool printable = one.path.find('\n') == std::string::npos;
    check_refusal(finished, one.code, printable ? one.path : "new?line?[31m.png");
  }
}

TEST_CASE("good pictures are answered, the first bad one gives the code") {
  const DataSite site;
  const std::string text = site.file("text.png", {'t', 'e', 'x', 't'});
  const Finished finished =
      offramp({"classify", "-m", site.model, "--json", site.path("absent.png"), site.pictures[0],
               text, site.pictures[1]});
  CHECK(finished.code == kMissing);
  REQUIRE(lines(finished.out).size() == 2);
  CHECK(Json::parse(lines(finished.out)[0]).at("picture") == site.pictures[0]);
  CHECK(Json::parse(lines(finished.out)[1]).at("picture") == site.pictures[1]);
  CHECK(lines(finished.err).size() == 2);
}

// ---- models ----

TEST_CASE("a bad model ends with 78, an absent one with 66") {
  const DataSite site;
  const Bytes good = small_model().signed_file();
  Bytes flipped = good;
  flipped[flipped.size() - 7] ^= 0x10;
  TestModel with_nan = small_model();
  with_nan.tensors.begin()->second.data[0] = std::nanf("");
  struct Bad {
    std::string path;
    int code;
  };
  const std::vector<Bad> bad = {
      {site.path("absent.safetensors"), kMissing},
      {site.data, kMissing},
      {site.file("empty.safetensors", {}), kBadModel},
      {site.file("text.safetensors", Bytes(500, 'x')), kBadModel},
      {site.file("truncated.safetensors", Bytes(good.begin(), good.end() - 4)), kBadModel},
      {site.file("half.safetensors",
                 Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(good.size() / 2))),
       kBadModel},
      {site.file("flipped.safetensors", flipped), kBadModel},
      {site.file("nan.safetensors", with_nan.signed_file()), kBadModel},
  };
  for (const Bad& one : bad) {
    CAPTURE(one.path);
    check_refusal(offramp({"classify", "-m", one.path, site.pictures[0]}), one.code, one.path);
    check_refusal(offramp({"inspect", one.path}), one.code, one.path);
    check_refusal(offramp({"node", "--tier", "edge", "--listen", "127.0.0.1:0", "-m", one.path}),
                  one.code, one.path);
  }
}

TEST_CASE("thresholds outside their range, or too many, end with 64") {
  const DataSite site;
  for (const char* value : {"-0.1", "1.01", "nan", "inf", "-inf", "abc", "0.5x", "0.1,0.2",
                            "0.1,0.2,0.3,0.4", ",", "1e400"}) {
    CAPTURE(value);
    const std::string option = std::string("--thresholds=") + value;
    const Finished finished = offramp({"classify", "-m", site.model, option, site.pictures[0]});
    check_refusal(finished, kUsage, "--thresholds");
  }
  check_refusal(
      offramp({"eval", "-m", site.model, "--data", site.data, "--nats", "--thresholds", "1.2"}),
      kUsage, "nats");
}

TEST_CASE("the model is found by flag, then by environment") {
  const DataSite site;
  const Finished finished = offramp({"inspect", "--json"}, {{"OFFRAMP_MODEL", site.model}});
  REQUIRE(finished.code == 0);
  CHECK(Json::parse(finished.out).at("file_bytes") == fs::file_size(site.model));
  check_refusal(offramp({"inspect"}, {{"OFFRAMP_MODEL", site.path("absent")}}), kMissing,
                site.path("absent"));
  check_refusal(offramp({"inspect", site.model}, {{"OFFRAMP_ISA", "abacus"}}), kUsage, "abacus");
}

TEST_CASE("inspect shows layers, segments and what would cross") {
  const DataSite site;
  const Finished text = offramp({"inspect", "--plan", site.model});
  CHECK(text.code == 0);
  for (const char* word : {"Layers", "Exits", "Segments", "Legal cuts", "Plan of the device"}) {
    CAPTURE(word);
    CHECK(text.out.find(word) != std::string::npos);
  }
  const Json json = Json::parse(offramp({"inspect", "--json", site.model}).out);
  CHECK(json.at("picture_bytes") == 48);
  CHECK(json.at("classes") == Json({"cat", "dog", "owl"}));
  REQUIRE(json.at("segments").size() == 2);
  std::uint64_t macs = 0, parameters = 0;
  for (const Json& layer : json.at("layers")) {
    macs += layer.at("macs").get<std::uint64_t>();
    parameters += layer.at("parameters").get<std::uint64_t>();
  }
  CHECK(json.at("macs") == macs);
  CHECK(json.at("parameters") == parameters);
  CHECK(json.at("segments")[0].at("macs").get<std::uint64_t>() +
            json.at("segments")[1].at("macs").get<std::uint64_t>() ==
        macs);
  CHECK(json.at("cuts")[0].at("after") == "input");
  CHECK(json.at("cuts")[0].at("bytes") == 4 * 48);
  CHECK(json.at("segments")[0].at("carry_bytes").get<std::uint64_t>() > 0);
}

TEST_CASE("inspect shows the steps and the arenas of the plans that run") {
  const DataSite site;
  for (const std::string& path :
       {site.model, std::string(OFFRAMP_SOURCE_DIR) + "/weights/resnet20b.safetensors"}) {
    const Model model = load_model(path);
    for (const char* name : {"auto", "direct", "winograd6", "im2col"}) {
      CAPTURE(std::string(name));
      const std::map<std::string, std::string> environment = {{"OFFRAMP_CONV", name}};
      std::istringstream text(offramp({"inspect", path}, environment).out);
      const std::set<std::string> words{std::istream_iterator<std::string>(text), {}};
      const Finished finished = offramp({"inspect", "--plan", "--json", path}, environment);
      REQUIRE(finished.code == 0);
      const Json json = Json::parse(finished.out);
      const std::vector<Stage> stages =
          make_stages(model, {}, {.convolution = parse_conv_algorithm(name)});
      REQUIRE(json.at("segments").size() == stages.size());
      for (std::size_t i = 0; i < stages.size(); ++i) {
        const Plan& plan = stages[i].plan();
        const std::size_t bytes = plan.make_workspace().floats() * sizeof(float);
        CHECK(json.at("segments")[i].at("arena_bytes") == bytes);
        CHECK(words.contains(cli::format_grouped(bytes)));
        const Json& found = json.at("segments")[i].at("plan");
        const std::vector<StepInfo> steps = plan.steps();
        REQUIRE(found.size() == steps.size());
        for (std::size_t s = 0; s < steps.size(); ++s) {
          CAPTURE(steps[s].layer);
          CHECK(found[s].at("layer") == steps[s].layer);
          CHECK(found[s].at("algorithm") == steps[s].algorithm);
          CHECK(found[s].at("weight_bytes") == steps[s].weight_bytes);
        }
      }
    }
  }
}

// ---- ends ----

TEST_CASE("a full disk or a reader that leaves is noticed") {
  const DataSite site;
  const Finished full = Process({"/bin/sh", "-c", "exec \"$0\" \"$@\" > /dev/full", OFFRAMP_BINARY,
                                 "classify", "-m", site.model, site.pictures[0]})
                            .finish();
  check_refusal(full, kCannotWrite, "standard output");

  Process left(command({"classify", "-m", site.model, "-"}), {},
               as_text(encode_png(random_picture(4, 4, 1))));
  left.close_stdout();
  const Finished quiet = left.finish();
  CHECK(quiet.code == 141);
  CHECK(quiet.err.empty());
}

// GCC 12's ThreadSanitizer holds a signal back while read() waits.
#ifdef __SANITIZE_THREAD__
constexpr bool kSignalsComeLate = true;
#else
constexpr bool kSignalsComeLate = false;
#endif

TEST_CASE("Ctrl-C ends with 130" * doctest::skip(kSignalsComeLate)) {
  const DataSite site;
  Process waiting(command({"classify", "-m", site.model, site.pictures[0], "-"}), {}, std::nullopt);
  REQUIRE(waiting.wait_for(site.pictures[0], seconds(20)));
  waiting.signal(SIGINT);
  const Finished finished = waiting.finish();
  CHECK(finished.code == 130);
  CHECK(finished.err.empty());
}

TEST_CASE("demo starts its tiers, answers and leaves nothing behind") {
  const DataSite site;
  const Finished finished =
      offramp({"demo", "-m", site.model, "--data", site.data, "--thresholds", "0"},
              {{"TMPDIR", site.folder.path().string()}});
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
  CHECK(lines(finished.out).size() >= 14);
  CHECK(finished.out.find("edge/last") != std::string::npos);
  CHECK(finished.out.find("\ncut 1 ") != std::string::npos);
  for (const fs::directory_entry& entry : fs::directory_iterator(site.folder.path())) {
    CHECK(entry.path().filename().string().rfind("offramp-", 0) != 0);
  }
}

}  // namespace
}  // namespace offramp::testing
