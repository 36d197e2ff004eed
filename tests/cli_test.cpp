// The `offramp` command from outside: what it prints, where, and with which exit code.

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "tests/test_command.h"
#include "tools/output.h"

namespace offramp::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using std::chrono::seconds;

std::string as_text(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

/// A model, pictures and a data set with one subfolder per class.
class Bench {
 public:
  Bench() {
    model = folder.write("model.safetensors", small_model().signed_file()).string();
    for (std::uint32_t i = 0; i < 12; ++i) {
      const std::string name = "data/" + std::vector<std::string>{"cat", "dog", "owl"}[i % 3] +
                               "/" + std::to_string(i) + ".png";
      const fs::path path = folder.write(name, encode_png(random_picture(4, 4, i + 1)));
      pictures.push_back(path.string());
    }
    data = (folder.path() / "data").string();
  }

  std::string file(const std::string& name, const Bytes& bytes) const {
    return folder.write(name, bytes).string();
  }
  std::string path(const std::string& name) const { return (folder.path() / name).string(); }

  TempDir folder;
  std::string model, data;
  std::vector<std::string> pictures;
};

/// Of a line of CSV without quotes.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  for (const char c : line) {
    if (c == ',')
      cells.emplace_back();
    else
      cells.back().push_back(c);
  }
  return cells;
}

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
  const Bench bench;
  const std::string& picture = bench.pictures[0];
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"frobnicate"},
      {"--frobnicate"},
      {"classify"},
      {"classify", "--frobnicate", picture},
      {"eval"},
      {"eval", "--data"},
      {"eval", "--data", bench.data, "--limit", "0"},
      {"eval", "--data", bench.data, "--limit", "many"},
      {"eval", "--data", bench.data, "--codec", "u9"},
      {"run", "--next", "127.0.0.1:1", "--codec", "", picture},
      {"eval", "--data", bench.data, "--batch", "-3"},
      {"eval", "--data", bench.data, "--threads", "1.5"},
      {"node", "--tier", "moon", "--listen", "127.0.0.1:0"},
      {"node", "--tier", "edge"},
      {"keygen"},
      {"keygen", "--tiers", bench.data, picture},
      {"keygen", "--tiers", bench.data, "--force"},
      {"top"},
      {"health"},
      {"health", "--live", "moon:99999"},
      {"config"},
      {"config", "check"},
      {"run", "--next", "127.0.0.1:1", "--insecure", "--keys", bench.data, picture},
      {"run", "--next", "127.0.0.1:1", "--data", bench.data, picture},
  };
  for (const std::vector<std::string>& arguments : wrong) {
    std::string shown;
    for (const std::string& argument : arguments) shown += argument + " ";
    CAPTURE(shown);
    const Finished finished = offramp(arguments, {{"OFFRAMP_MODEL", bench.model}});
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
  const Bench bench;
  const Finished text = offramp({"classify", "-m", bench.model, bench.pictures[0]});
  CHECK(text.code == 0);
  CHECK(text.err.empty());
  REQUIRE(lines(text.out).size() == 2);
  CHECK(text.out.find('\x1b') == std::string::npos);

  const Finished json =
      offramp({"classify", "-m", bench.model, "--json", bench.pictures[0], bench.pictures[1]});
  CHECK(json.code == 0);
  REQUIRE(lines(json.out).size() == 2);
  const Json answer = Json::parse(lines(json.out)[0]);
  CHECK(answer.at("picture") == bench.pictures[0]);
  CHECK(answer.at("probability").get<double>() > 1.0 / 3.0 - 1e-6);
  CHECK(answer.at("unit") == "normalised");
  CHECK((answer.at("exit") == "first" || answer.at("exit") == "last"));
  CHECK(answer.at("compute_ms").get<double>() > 0.0);
}

TEST_CASE("a folder stands for the pictures in it, in order of their names") {
  const Bench bench;
  const fs::path folder = fs::path(bench.pictures[0]).parent_path();
  bench.folder.write("data/cat/notes.txt", "no picture");
  bench.folder.write("data/cat/LAST.PNG", encode_png(random_picture(4, 4, 9)));
  const Finished finished =
      offramp({"classify", "-m", bench.model, "--json", folder.string(), bench.pictures[1]});
  CHECK(finished.code == 0);
  std::vector<std::string> names;
  for (const std::string& line : lines(finished.out))
    names.push_back(fs::path(std::string(Json::parse(line).at("picture"))).filename());
  CHECK(names == std::vector<std::string>{"0.png", "3.png", "6.png", "9.png", "LAST.PNG", "1.png"});
}

TEST_CASE("a picture may come from standard input") {
  const Bench bench;
  const std::string bytes = as_text(encode_png(random_picture(4, 4, 1)));
  const Finished piped = offramp({"classify", "-m", bench.model, "--json", "-"}, {}, bytes);
  const Finished named = offramp({"classify", "-m", bench.model, "--json", bench.pictures[0]});
  REQUIRE(piped.code == 0);
  CHECK(Json::parse(piped.out).at("probability") == Json::parse(named.out).at("probability"));
  check_refusal(offramp({"classify", "-m", bench.model, "-"}), kBadData, "standard input");
}

TEST_CASE("thresholds decide which exit answers, in either unit") {
  const Bench bench;
  const auto exit_at = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"classify", "-m", bench.model, "--json", bench.pictures[0]});
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
  const Bench bench;
  const Bytes good = encode_png(random_picture(4, 4, 1));
  const std::string text = "this is not a picture, however long one looks at it";
  struct Bad {
    std::string path;
    int code;
  };
  const std::vector<Bad> bad = {
      {bench.file("empty.png", {}), kBadData},
      {bench.file("truncated.png", Bytes(good.begin(), good.begin() + 45)), kBadData},
      {bench.file("text.jpg", Bytes(text.begin(), text.end())), kBadData},
      {bench.file("huge.bmp", bmp_header(60000, 60000)), kBadData},
      {bench.file("huge.png", png_start(60000, 60000, 8)), kBadData},
      {bench.file("deep.png", png_start(4, 4, 16)), kBadData},
      {bench.data, kMissing},
      {bench.path("absent.png"), kMissing},
      {bench.path("new\nline\x1b[31m.png"), kMissing},
  };
  for (const Bad& one : bad) {
    CAPTURE(one.path);
    const Finished finished = offramp({"classify", "-m", bench.model, one.path});
    const bool printable = one.path.find('\n') == std::string::npos;
    check_refusal(finished, one.code, printable ? one.path : "new?line?[31m.png");
  }
}

TEST_CASE("good pictures are answered, the first bad one gives the code") {
  const Bench bench;
  const std::string text = bench.file("text.png", {'t', 'e', 'x', 't'});
  const Finished finished =
      offramp({"classify", "-m", bench.model, "--json", bench.path("absent.png"), bench.pictures[0],
               text, bench.pictures[1]});
  CHECK(finished.code == kMissing);
  REQUIRE(lines(finished.out).size() == 2);
  CHECK(Json::parse(lines(finished.out)[0]).at("picture") == bench.pictures[0]);
  CHECK(Json::parse(lines(finished.out)[1]).at("picture") == bench.pictures[1]);
  CHECK(lines(finished.err).size() == 2);
}

// ---- models ----

TEST_CASE("a bad model ends with 78, an absent one with 66") {
  const Bench bench;
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
      {bench.path("absent.safetensors"), kMissing},
      {bench.data, kMissing},
      {bench.file("empty.safetensors", {}), kBadModel},
      {bench.file("text.safetensors", Bytes(500, 'x')), kBadModel},
      {bench.file("truncated.safetensors", Bytes(good.begin(), good.end() - 4)), kBadModel},
      {bench.file("half.safetensors",
                  Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(good.size() / 2))),
       kBadModel},
      {bench.file("flipped.safetensors", flipped), kBadModel},
      {bench.file("nan.safetensors", with_nan.signed_file()), kBadModel},
  };
  for (const Bad& one : bad) {
    CAPTURE(one.path);
    check_refusal(offramp({"classify", "-m", one.path, bench.pictures[0]}), one.code, one.path);
    check_refusal(offramp({"inspect", one.path}), one.code, one.path);
    check_refusal(offramp({"node", "--tier", "edge", "--listen", "127.0.0.1:0", "-m", one.path}),
                  one.code, one.path);
  }
}

TEST_CASE("thresholds outside their range, or too many, end with 64") {
  const Bench bench;
  for (const char* value : {"-0.1", "1.01", "nan", "inf", "-inf", "abc", "0.5x", "0.1,0.2",
                            "0.1,0.2,0.3,0.4", ",", "1e400"}) {
    CAPTURE(value);
    const std::string option = std::string("--thresholds=") + value;
    const Finished finished = offramp({"classify", "-m", bench.model, option, bench.pictures[0]});
    check_refusal(finished, kUsage, "--thresholds");
  }
  check_refusal(
      offramp({"eval", "-m", bench.model, "--data", bench.data, "--nats", "--thresholds", "1.2"}),
      kUsage, "nats");
}

TEST_CASE("the model is found by flag, then by environment") {
  const Bench bench;
  const Finished finished = offramp({"inspect", "--json"}, {{"OFFRAMP_MODEL", bench.model}});
  REQUIRE(finished.code == 0);
  CHECK(Json::parse(finished.out).at("file_bytes") == fs::file_size(bench.model));
  check_refusal(offramp({"inspect"}, {{"OFFRAMP_MODEL", bench.path("absent")}}), kMissing,
                bench.path("absent"));
  check_refusal(offramp({"inspect", bench.model}, {{"OFFRAMP_ISA", "abacus"}}), kUsage, "abacus");
}

TEST_CASE("inspect shows layers, segments and what would cross") {
  const Bench bench;
  const Finished text = offramp({"inspect", "--plan", bench.model});
  CHECK(text.code == 0);
  for (const char* word : {"Layers", "Exits", "Segments", "Legal cuts", "Plan of the device"}) {
    CAPTURE(word);
    CHECK(text.out.find(word) != std::string::npos);
  }
  const Json json = Json::parse(offramp({"inspect", "--json", bench.model}).out);
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
  const Bench bench;
  for (const std::string& path :
       {bench.model, std::string(OFFRAMP_SOURCE_DIR) + "/weights/resnet20b.safetensors"}) {
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

// ---- eval ----

TEST_CASE("eval says the same however many threads and batches there are") {
  const Bench bench;
  const auto eval = [&](const std::string& batch, const std::string& threads) {
    const Finished finished =
        offramp({"eval", "-m", bench.model, "--data", bench.data, "--batch", batch, "--threads",
                 threads, "--sweep", "--json", "--thresholds", "0.9", "--logits",
                 bench.path("logits"), "--decisions", bench.path("decisions")});
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
    CHECK(finished.err.empty());
    Json json = Json::parse(finished.out);
    for (const char* measured :
         {"batch", "threads", "latency_ms", "mean_compute_ms", "pictures_per_second"}) {
      CHECK(json.erase(measured) == 1);
    }
    for (Json& point : json.at("sweep")) {
      CHECK(point.at("time_share").get<double>() > 0.0);
      for (const char* measured : {"mean_ms", "time_share"}) CHECK(point.erase(measured) == 1);
    }
    json["logits"] = read_file(bench.path("logits"));
    json["decisions"] = text_of(bench.path("decisions"));
    return json;
  };
  const Json one = eval("1", "1");
  CHECK(one.at("samples") == 12);
  CHECK(one.at("logits").size() == 12u * 2u * 3u * 4u);
  CHECK(lines(one.at("decisions").get<std::string>()).size() == 13);
  CHECK(one.at("sweep").size() == 15);
  // At T = 0 nobody leaves early, at 1 everybody does.
  CHECK(one.at("sweep").front().at("macs_share") == 1.0);
  CHECK(one.at("sweep").back().at("macs_share").get<double>() ==
        doctest::Approx(one.at("exits")[0].at("macs").get<double>() /
                        one.at("exits")[1].at("macs").get<double>()));
  CHECK(one == eval("5", "1"));
  CHECK(one == eval("3", "4"));
}

TEST_CASE("eval's numbers are those of its own logits") {
  const Bench bench;
  const Finished finished =
      offramp({"eval", "-m", bench.model, "--data", bench.data, "--thresholds", "1", "--json",
               "--logits", bench.path("logits")});
  REQUIRE(finished.code == 0);
  const Json json = Json::parse(finished.out);
  const Bytes bytes = read_file(bench.path("logits"));
  // The folder's order: all cats, all dogs, all owls.
  std::vector<int> right(2);
  for (std::size_t sample = 0; sample < 12; ++sample) {
    for (std::size_t exit = 0; exit < 2; ++exit) {
      std::vector<float> logits;
      for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t at = 4 * ((sample * 2 + exit) * 3 + i);
        logits.push_back(std::bit_cast<float>(
            static_cast<std::uint32_t>(bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16) |
            static_cast<std::uint32_t>(bytes[at + 3]) << 24));
      }
      const auto best = std::ranges::max_element(logits) - logits.begin();
      if (best == static_cast<std::ptrdiff_t>(sample / 4)) ++right[exit];
    }
  }
  for (std::size_t exit = 0; exit < 2; ++exit) {
    CHECK(json.at("exits")[exit].at("accuracy").get<double>() ==
          doctest::Approx(right[exit] / 12.0));
  }
  // At T = 1 every picture leaves at the first exit.
  CHECK(json.at("exits")[0].at("share") == 1.0);
  CHECK(json.at("exits")[1].at("taken") == 0);
  CHECK(json.at("exits")[1].at("accuracy_taken").is_null());
  CHECK(json.at("accuracy") == json.at("exits")[0].at("accuracy"));
  CHECK(json.at("mean_macs") == json.at("exits")[0].at("macs"));
}

TEST_CASE("eval refuses bad data sets and outputs before it works") {
  const Bench bench;
  check_refusal(offramp({"eval", "-m", bench.model, "--data", bench.path("absent")}), kMissing,
                bench.path("absent"));
  bench.file("cifar/test_batch.bin", Bytes(3000));
  check_refusal(offramp({"eval", "-m", bench.model, "--data", bench.path("cifar")}), kBadData,
                "test_batch.bin");
  check_refusal(offramp({"eval", "-m", bench.model, "--data", bench.data, "--logits",
                         bench.path("absent/logits")}),
                kCannotWrite, "absent/logits");
}

TEST_CASE("a full disk or a reader that leaves is noticed") {
  const Bench bench;
  const Finished full = Process({"/bin/sh", "-c", "exec \"$0\" \"$@\" > /dev/full", OFFRAMP_BINARY,
                                 "classify", "-m", bench.model, bench.pictures[0]})
                            .finish();
  check_refusal(full, kCannotWrite, "standard output");

  Process left(command({"classify", "-m", bench.model, "-"}), {},
               as_text(encode_png(random_picture(4, 4, 1))));
  left.close_stdout();
  const Finished quiet = left.finish();
  CHECK(quiet.code == 141);
  CHECK(quiet.err.empty());
}

// ---- nodes ----

TEST_CASE("run through a node gives eval's decisions bit for bit") {
  const Bench bench;
  for (const char* threshold : {"0", "0.9", "1"}) {
    CAPTURE(threshold);
    RunningNode edge(bench.folder, bench.model, "edge", {"--thresholds", threshold});
    const Finished run = offramp({"run", "-m", bench.model, "--next", edge.address, "--data",
                                  bench.data, "--thresholds", threshold, "--deadline", "20s",
                                  "--json", "--decisions", bench.path("run.csv")});
    CAPTURE(run.err);
    CHECK(run.code == 0);
    const Finished eval = offramp({"eval", "-m", bench.model, "--data", bench.data, "--thresholds",
                                   threshold, "--json", "--decisions", bench.path("eval.csv")});
    CHECK(eval.code == 0);
    CHECK(text_of(bench.path("run.csv")) == text_of(bench.path("eval.csv")));
    CHECK(Json::parse(run.out).at("accuracy") == Json::parse(eval.out).at("accuracy"));
    const Finished stopped = edge.stop();
    CHECK(stopped.code == 0);
    CHECK(lines(stopped.err).front().starts_with("listening on " + edge.address));
    CHECK(lines(stopped.err).back().starts_with("stopped: "));
  }
}

TEST_CASE("run --codec gives the decisions of eval --codec, and both say what crossed") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", {"--thresholds", "0.9"});
  for (const std::vector<std::string>& codec :
       std::vector<std::vector<std::string>>{{"--codec", "f32"},
                                             {"--codec", "f16"},
                                             {"--codec", "u8"},
                                             {"--codec", "u8c", "--lz4"},
                                             {"--lz4"}}) {
    std::vector<std::string> arguments = {
        "run",          "-m",         bench.model, "--next", edge.address,  "--data",
        bench.data,     "--deadline", "20s",       "--json", "--decisions", bench.path("run.csv"),
        "--thresholds", "0.9"};
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    const Finished run = offramp(arguments);
    CAPTURE(run.err);
    REQUIRE(run.code == 0);
    arguments = {"eval",         "-m", bench.model, "--data",      bench.data,
                 "--batch",      "5",  "--json",    "--decisions", bench.path("eval.csv"),
                 "--thresholds", "0.9"};
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    const Finished eval = offramp(arguments);
    CAPTURE(eval.err);
    REQUIRE(eval.code == 0);
    CHECK(text_of(bench.path("run.csv")) == text_of(bench.path("eval.csv")));
    const Json cuts = Json::parse(run.out).at("cuts");
    REQUIRE(cuts.size() == 1);
    CHECK(cuts == Json::parse(eval.out).at("cuts"));
    CHECK(cuts[0].at("tensors").get<int>() > 0);
    if (codec.size() == 2) {
      const Json inspected = Json::parse(offramp({"inspect", "--json", bench.model}).out);
      for (const Json& cut : inspected.at("cuts")) {
        if (cut.at("shape") != cuts[0].at("shape")) continue;
        CHECK(cuts[0].at("mean_bytes") == 96.0 + cut.at("bytes_as").at(codec[1]).get<double>());
      }
    }
  }
}

TEST_CASE("eval --codec f32 decides as eval does, and another codec does not to the bit") {
  const Bench bench;
  const auto decisions = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"eval",   "-m",          bench.model,
                                          "--data", bench.data,    "--thresholds",
                                          "0",      "--decisions", bench.path("csv")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    REQUIRE(offramp(arguments).code == 0);
    return text_of(bench.path("csv"));
  };
  const std::string plain = decisions({});
  CHECK(plain == decisions({"--codec", "f32"}));
  CHECK(plain == decisions({"--lz4"}));
  CHECK(plain != decisions({"--codec", "f16"}));
  CHECK(plain != decisions({"--codec", "u8"}));
}

TEST_CASE("activations that f16 does not reach are told, not changed") {
  const Bench bench;
  TestModel loud = small_model();
  for (float& v : loud.tensors.at("bn.bias").data) v = 1e6f;
  const std::string model = bench.file("loud.safetensors", loud.signed_file());
  const auto eval = [&](const char* codec) {
    return offramp({"eval", "-m", model, "--data", bench.data, "--codec", codec});
  };
  CHECK(eval("u8").code == 0);
  check_refusal(eval("f16"), kBadData, "as f16 with finite numbers");

  RunningNode edge(bench.folder, model, "edge", {"--thresholds", "0"});
  const Finished run =
      offramp({"run", "-m", model, "--next", edge.address, "--thresholds", "0", "--codec", "f16",
               "--json", "--deadline", "20s", bench.pictures[0]});
  CAPTURE(run.err);
  CHECK(run.code == kUnavailable);
  CHECK(Json::parse(run.out).at("status") == "degraded(refused)");
}

TEST_CASE("run answers pictures in their order and skips bad ones") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", {"--thresholds", "0.9"});
  std::vector<std::string> arguments = {"run",
                                        "-m",
                                        bench.model,
                                        "--next",
                                        edge.address,
                                        "--thresholds",
                                        "0.9",
                                        "--deadline",
                                        "20s",
                                        "--json",
                                        bench.path("absent.png")};
  arguments.insert(arguments.end(), bench.pictures.begin(), bench.pictures.end());
  const Finished finished = offramp(arguments);
  CHECK(finished.code == kMissing);
  CHECK(lines(finished.err).size() == 1);
  REQUIRE(lines(finished.out).size() == bench.pictures.size());
  for (std::size_t i = 0; i < bench.pictures.size(); ++i) {
    const Json answer = Json::parse(lines(finished.out)[i]);
    CHECK(answer.at("picture") == bench.pictures[i]);
    CHECK(answer.at("status") == "ok");
    CHECK((answer.at("tier") == "edge") == (answer.at("exit") == "last"));
    CHECK((answer.at("sent_bytes") == 0) == (answer.at("tier") == "device"));
  }
  CHECK(edge.stop(SIGINT).code == 0);
}

TEST_CASE("run --duration goes through the data again and again, --history tells of each picture") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge", {"--thresholds", "0.9"});
  const Finished run = offramp({"run",         "-m",
                                bench.model,   "--next",
                                edge.address,  "--data",
                                bench.data,    "--thresholds",
                                "0.9",         "--deadline",
                                "20s",         "--json",
                                "--duration",  "1s",
                                "--every",     "5ms",
                                "--history",   bench.path("history.csv"),
                                "--decisions", bench.path("run.csv")});
  CAPTURE(run.err);
  CHECK(run.code == 0);
  const auto count = Json::parse(run.out).at("pictures").get<std::size_t>();
  CHECK(count > bench.pictures.size());
  CHECK(count <= 201);  // one at the start and one every 5 ms

  const Finished eval = offramp({"eval", "-m", bench.model, "--data", bench.data, "--thresholds",
                                 "0.9", "--json", "--decisions", bench.path("eval.csv")});
  CHECK(eval.code == 0);
  const std::vector<std::string> once = lines(text_of(bench.path("eval.csv")));
  const std::vector<std::string> often = lines(text_of(bench.path("run.csv")));
  CHECK(often.size() == count + 1);

  const std::vector<std::string> history = lines(text_of(bench.path("history.csv")));
  CHECK(history.at(0) ==
        "time_us,event,id,picture,tier,exit,label,probability,entropy,status,total_us");
  CHECK(history.size() == 2 * count + 1);
  std::map<std::size_t, std::int64_t> begun, answered;
  for (std::size_t i = 1; i < history.size(); ++i) {
    CAPTURE(history[i]);
    const std::vector<std::string> cells = cells_of(history[i]);
    REQUIRE(cells.size() == 11);
    const std::size_t id = std::stoul(cells[2]), picture = std::stoul(cells[3]);
    CHECK(picture == id % bench.pictures.size());
    auto& times = cells[1] == "begun" ? begun : answered;
    CHECK(times.emplace(id, std::stoll(cells[0])).second);
    if (cells[1] == "begun") continue;
    CHECK(cells[1] == "answered");
    CHECK(cells[4] == (cells[5] == "0" ? "device" : "edge"));
    CHECK(cells[9] == "ok");
    const std::string decision =
        cells[6] + "," + cells[5] + "," + cells[7] + "," + cells[8] + "," + cells[9];
    CHECK(once.at(picture + 1) == std::to_string(picture) + "," + decision);
    CHECK(often.at(id + 1) == std::to_string(id) + "," + decision);
    REQUIRE(begun.contains(id));
    // The row is written once the total has been taken.
    CHECK(answered.at(id) - begun.at(id) + 1 >= std::stoll(cells[10]));
  }
  CHECK(begun.size() == count);
  CHECK(answered.size() == count);
}

TEST_CASE("run --duration complains of a bad picture once, and begins at least one") {
  const Bench bench;
  RunningNode edge(bench.folder, bench.model, "edge");
  const auto run = [&](const std::string& duration) {
    return offramp({"run", "-m", bench.model, "--next", edge.address, "--deadline", "20s", "--json",
                    "--duration", duration, "--every", "2ms", bench.pictures[0],
                    bench.path("absent.png")});
  };
  const Finished often = run("300ms");
  CHECK(often.code == kMissing);
  CHECK(lines(often.err).size() == 1);
  CHECK(lines(often.out).size() > 1);
  for (const std::string& line : lines(often.out))
    CHECK(Json::parse(line).at("picture") == bench.pictures[0]);

  const Finished once = run("1us");
  CHECK(once.code == 0);
  CHECK(lines(once.out).size() == 1);
}

TEST_CASE("without the next tier the device answers, degraded, and says so with 69") {
  const Bench bench;
  const Finished finished = offramp({"run", "-m", bench.model, "--next", "127.0.0.1:1",
                                     "--thresholds", "0", "--json", bench.pictures[0]});
  CHECK(finished.code == kUnavailable);
  REQUIRE(lines(finished.out).size() == 1);
  const Json answer = Json::parse(finished.out);
  CHECK(answer.at("tier") == "device");
  CHECK(answer.at("status") == "degraded(disconnected)");
  CAPTURE(finished.err);
  REQUIRE(lines(finished.err).size() == 1);
  CHECK(finished.err.find("tcp://127.0.0.1:1: wanted") != std::string::npos);
  CHECK(finished.err.find("found degraded(disconnected) for 1 of 1") != std::string::npos);
}

TEST_CASE("different models on two tiers end with 78 and name both") {
  const Bench bench;
  TestModel other = small_model();
  other.metadata["offramp.name"] = "other";
  const std::string path = bench.file("other.safetensors", other.signed_file());
  RunningNode edge(bench.folder, path, "edge");
  const Finished finished = offramp(
      {"run", "-m", bench.model, "--next", edge.address, "--thresholds", "0", bench.pictures[0]});
  check_refusal(finished, kBadModel, edge.address);
  for (const std::string& model : {bench.model, path}) {
    const std::string id = Json::parse(offramp({"inspect", "--json", model}).out).at("id");
    CHECK(finished.err.find(id.substr(0, 16)) != std::string::npos);
  }
}

TEST_CASE("a node refuses what it cannot serve") {
  const Bench bench;
  const auto node = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"node", "-m", bench.model});
    return offramp(options);
  };
  RunningNode edge(bench.folder, bench.model, "edge");
  check_refusal(node({"--tier", "edge", "--listen", edge.address}), kUnavailable, edge.address);
  check_refusal(node({"--tier", "cloud", "--listen", "127.0.0.1:0"}), kUsage, "cloud");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--next", "127.0.0.1:1"}),
                kUsage, "--next");
  check_refusal(node({"--tier", "edge", "--listen", "nonsense"}), kUsage, "nonsense");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--batch", "33"}), kUsage, "33");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--batch-delay", "3ms"}), kUsage,
                "3ms");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:0", "--codec", "u8"}), kUsage,
                "--codec");
  check_refusal(node({"--tier", "edge", "--listen", "127.0.0.1:99999"}), kUsage, "99999");
  check_refusal(
      node({"--tier", "edge", "--listen", "127.0.0.1:0", "--port-file", bench.path("absent/port")}),
      kCannotWrite, "absent/port");
}

TEST_CASE("deadlines are durations") {
  const Bench bench;
  for (const char* wrong : {"1", "fast", "0s", "-1s", "2h", "1e9s", "nan", "1 s"}) {
    CAPTURE(wrong);
    check_refusal(offramp({"run", "-m", bench.model, "--next", "127.0.0.1:1",
                           std::string("--deadline=") + wrong, bench.pictures[0]}),
                  kUsage, "--deadline");
  }
  for (const char* right : {"250us", "50ms", "1.5s"}) {
    CAPTURE(right);
    const Finished finished =
        offramp({"run", "-m", bench.model, "--next", "127.0.0.1:1", "--thresholds", "1",
                 std::string("--deadline=") + right, bench.pictures[0]});
    CHECK(finished.code == 0);
  }
}

// GCC 12's ThreadSanitizer holds a signal back while read() waits.
#ifdef __SANITIZE_THREAD__
constexpr bool kSignalsComeLate = true;
#else
constexpr bool kSignalsComeLate = false;
#endif

TEST_CASE("Ctrl-C ends with 130" * doctest::skip(kSignalsComeLate)) {
  const Bench bench;
  Process waiting(command({"classify", "-m", bench.model, bench.pictures[0], "-"}), {},
                  std::nullopt);
  REQUIRE(waiting.wait_for(bench.pictures[0], seconds(20)));
  waiting.signal(SIGINT);
  const Finished finished = waiting.finish();
  CHECK(finished.code == 130);
  CHECK(finished.err.empty());
}

TEST_CASE("demo starts its tiers, answers and leaves nothing behind") {
  const Bench bench;
  const Finished finished =
      offramp({"demo", "-m", bench.model, "--data", bench.data, "--thresholds", "0"},
              {{"TMPDIR", bench.folder.path().string()}});
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(finished.err.empty());
  CHECK(lines(finished.out).size() >= 14);
  CHECK(finished.out.find("edge/last") != std::string::npos);
  CHECK(finished.out.find("\ncut 1 ") != std::string::npos);
  for (const fs::directory_entry& entry : fs::directory_iterator(bench.folder.path())) {
    CHECK(entry.path().filename().string().rfind("offramp-", 0) != 0);
  }
}

}  // namespace
}  // namespace offramp::testing
