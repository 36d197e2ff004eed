#include "engine/model.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/model_graph.h"
#include "engine/safetensors.h"
#include "tests/test_files.h"

namespace offramp {
namespace {

using nlohmann::json;
using testing::Bytes;
using testing::error_of;
using testing::small_model;
using testing::TempDir;
using testing::TestModel;

void check_message(const Error& error, const std::string& found) {
  const std::string message = error.what();
  INFO(message);
  CHECK(error.kind() == ErrorKind::kBadModel);
  CHECK(message.starts_with("m: "));
  CHECK(message.find("wanted ") != std::string::npos);
  CHECK(message.find(found) != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}

// Refused although its hash is right.
void check_refused(const TestModel& model, const std::string& found) {
  const Bytes file = model.signed_file();
  check_message(error_of([&] { (void)parse_model(file, "m"); }), found);
}

// The small model with one JSON text edited.
template <typename Edit>
TestModel edited(const char* key, Edit&& edit) {
  TestModel model = small_model();
  json value = json::parse(model.metadata.at(key));
  edit(value);
  model.metadata[key] = value.dump();
  return model;
}

// The small model with fields of one layer replaced.
TestModel with_layer(std::size_t index, const json& fields) {
  return edited("offramp.graph", [&](json& graph) { graph[index].update(fields); });
}

TEST_CASE("a model file becomes a model") {
  const TempDir dir;
  const Bytes file = small_model().signed_file();
  const Model model = load_model(dir.write("m", file));
  CHECK(model.name == "small");
  CHECK(model.file_bytes == file.size());
  CHECK(model.classes == std::vector<std::string>{"cat", "dog", "owl"});
  CHECK(model.preprocess.input == Shape{3, 4, 4});
  CHECK(model.preprocess.resize == Preprocess::Resize::kStretch);
  CHECK(model.preprocess.mean == std::array<float, 3>{0.5f, 0.4f, 0.3f});
  CHECK(model.preprocess.std == std::array<float, 3>{0.2f, 0.25f, 0.5f});
  CHECK(short_id(model.id).size() == 16);

  const Graph& graph = model.graph;
  REQUIRE(graph.layers.size() == 8);
  REQUIRE(graph.values.size() == 9);
  CHECK(graph.values[1] == Shape{2, 4, 4});
  CHECK(graph.values[6] == Shape{2, 2, 2});
  CHECK(graph.values[8] == Shape{3, 1, 1});
  CHECK(graph.layers[5].inputs == std::vector<ValueId>{3});
  const auto& conv = std::get<Conv2d>(graph.layers[0].op);
  CHECK(conv.out_channels == 2);
  CHECK(conv.padding == Pair{1, 1});
  CHECK(conv.bias.empty());
  REQUIRE(conv.weight.size() == 54);
  CHECK(conv.weight[1] == -0.25f);
  CHECK(std::get<BatchNorm>(graph.layers[1].op).epsilon == 1e-5f);
  REQUIRE(graph.exits.size() == 2);
  CHECK(graph.exits[0].name == "first");
  CHECK(graph.exits[0].rule.threshold == 0.5f);
  CHECK(graph.exits[1].logits == 8);
}

TEST_CASE("every op is read with its attributes") {
  TestModel model = edited("offramp.graph", [](json& graph) {
    graph = json::array();
    const auto add = [&](json layer) { graph.push_back(std::move(layer)); };
    const json window = {{"kernel", {3, 2}}, {"stride", {1, 2}}, {"padding", {1, 0}}};
    add({{"name", "pad"},
         {"op", "pad_channels"},
         {"inputs", {"input"}},
         {"before", 1},
         {"after", 2}});
    add({{"name", "sub"}, {"op", "subsample"}, {"inputs", {"pad"}}, {"stride", {2, 1}}});
    add({{"name", "cat"}, {"op", "concat"}, {"inputs", {"sub", "sub", "sub"}}});
    json average = {{"name", "avg"},
                    {"op", "average_pool"},
                    {"inputs", {"cat"}},
                    {"ceil_mode", true},
                    {"count_include_pad", false}};
    average.update(window);
    add(average);
    add({{"name", "sum"}, {"op", "add"}, {"inputs", {"avg", "avg"}}});
    add({{"name", "gap"}, {"op", "global_average_pool"}, {"inputs", {"sum"}}});
    add({{"name", "fc"},
         {"op", "linear"},
         {"inputs", {"gap"}},
         {"weight", "w"},
         {"bias", nullptr}});
  });
  model.metadata["offramp.exits"] = R"([{"name":"only","logits":"fc"}])";
  model.tensors = {{"w", {{3, 18}, std::vector<float>(54)}}};
  const Bytes file = model.signed_file();
  const Graph graph = parse_model(file, "m").graph;
  CHECK(graph.values[1] == Shape{6, 4, 4});
  CHECK(graph.values[2] == Shape{6, 2, 4});
  CHECK(graph.values[3] == Shape{18, 2, 4});
  CHECK(graph.values[4] == Shape{18, 2, 2});
  const auto& pool = std::get<AveragePool>(graph.layers[3].op);
  CHECK(pool.ceil_mode);
  CHECK_FALSE(pool.count_include_pad);
  CHECK(pool.kernel == Pair{3, 2});
}

TEST_CASE("missing files, folders and other files are told apart") {
  const TempDir dir;
  const auto kind = [](const std::filesystem::path& path) {
    return error_of([&] { (void)load_model(path); }).kind();
  };
  CHECK(kind(dir.path() / "none") == ErrorKind::kMissingInput);
  CHECK(kind(dir.path()) == ErrorKind::kMissingInput);
  CHECK(kind(dir.write("empty", "")) == ErrorKind::kBadModel);
  CHECK(kind(dir.write("text", "This is not a model.\n")) == ErrorKind::kBadModel);
}

TEST_CASE("every truncation and every bit flip of a model is refused") {
  Bytes file = small_model().signed_file();
  CHECK_NOTHROW(parse_model(file, "m"));
  for (std::size_t length = 0; length < file.size(); ++length) {
    const Bytes part(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length));
    check_message(error_of([&] { (void)parse_model(part, "m"); }), "found");
  }
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    CAPTURE(bit);
    file[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    check_message(error_of([&] { (void)parse_model(file, "m"); }), "found");
    file[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
  }
}

TEST_CASE("a wrong hash is called so, before a weight is judged") {
  TestModel model = small_model();
  model.metadata["offramp.hash"] = std::string(64, '0');
  Bytes file = model.file();
  check_message(error_of([&] { (void)parse_model(file, "m"); }), "damaged");
  model.tensors["fc1.bias"].data[0] = std::nanf("");
  file = model.file();
  check_message(error_of([&] { (void)parse_model(file, "m"); }), "damaged");
  model.metadata.erase("offramp.hash");
  file = model.file();
  check_message(error_of([&] { (void)parse_model(file, "m"); }), "'offramp.hash'");
}

TEST_CASE("the hash covers names, shapes, order, metadata and data") {
  const auto id = [](const TestModel& model) {
    const Bytes file = model.signed_file();
    return parse_model(file, "m").id;
  };
  const ModelId base = id(small_model());
  TestModel other = small_model();
  other.metadata["offramp.source"] = "elsewhere";
  CHECK(id(other) != base);
  other = small_model();
  other.tensors["conv.weight"].data[3] += 0.5f;
  CHECK(id(other) != base);
}

TEST_CASE("weights that are not finite are refused, and variances that are negative") {
  for (const char* name : {"conv.weight", "bn.running_mean", "bn.bias", "fc2.weight", "fc1.bias"}) {
    for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      TestModel model = small_model();
      model.tensors[name].data.back() = value;
      check_refused(model, std::isnan(value) ? "NaN" : "infinity");
    }
  }
  TestModel model = small_model();
  model.tensors["bn.running_var"].data[1] = -1.0f;
  check_refused(model, "found -1");
}

TEST_CASE("tensors must be used, there, and of the right shape") {
  TestModel model = small_model();
  model.tensors["more"] = {{1}, {0.0f}};
  check_refused(model, "a layer that uses it");
  model = small_model();
  model.tensors.erase("fc2.bias");
  check_refused(model, "tensor 'fc2.bias' in the file, found none");
  model = small_model();
  model.tensors["conv.weight"].shape = {2, 3, 9, 1};
  check_refused(model, "found [2, 3, 9, 1]");
  model.tensors["conv.weight"].shape = {54};
  check_refused(model, "found [54]");
  model = small_model();
  model.tensors["bn.bias"].shape = {1, 2};
  check_refused(model, "found [1, 2]");
}

TEST_CASE("metadata of another format or version is refused") {
  for (const auto& [key, value] : {std::pair{"format", "pt"}, std::pair{"offramp.version", "2"}}) {
    TestModel model = small_model();
    model.metadata[key] = value;
    check_refused(model, std::string("found '") + value + "'");
    model.metadata.erase(key);
    check_refused(model, std::string("wanted '") + key + "', found none");
  }
  TestModel model = small_model();
  model.metadata["offramp.name"] = "two\nlines";
  check_refused(model, "'two?lines'");
  model.metadata["offramp.name"] = "";
  check_refused(model, "an empty one");
}

TEST_CASE("inputs out of range are refused") {
  const auto input = [](const json& fields) {
    return edited("offramp.input", [&](json& value) { value.update(fields); });
  };
  check_refused(input({{"shape", {1, 4, 4}}}), "found 1");
  check_refused(input({{"shape", {3, 0, 4}}}), "found 0");
  check_refused(input({{"shape", {3, 4097, 4}}}), "found 4097");
  check_refused(input({{"shape", {3, 4}}}), "a list of 2");
  check_refused(input({{"shape", {3, 4.0, 4}}}), "found 4.0");
  check_refused(input({{"shape", {3, 99999999999999999999.0, 4}}}), "found 1e+20");
  check_refused(input({{"shape", {3, 18446744073709551615u, 4}}}), "found 18446744073709551615");
  check_refused(input({{"std", {1, 0, 1}}}), "found 0.0");
  check_refused(input({{"std", {1, -1, 1}}}), "found -1.0");
  check_refused(input({{"mean", {1, 1e300, 1}}}), "found 1e+300");
  check_refused(input({{"mean", {1, "0", 1}}}), "found '0'");
  check_refused(input({{"resize", "longer"}}), "found 'longer'");
  check_refused(input({{"resize", "shorter"}}), "'resize_to', found none");
  check_refused(input({{"resize", "shorter"}, {"resize_to", 3}}), "found 3");
  check_refused(input({{"resize_to", 8}}), "found 'resize_to'");
  const Bytes file = input({{"resize", "shorter"}, {"resize_to", 8}}).signed_file();
  CHECK(parse_model(file, "m").preprocess.resize_to == 8);
}

TEST_CASE("classes must be distinct and as many as logits") {
  const auto classes = [](const json& list) {
    return edited("offramp.classes", [&](json& value) { value = list; });
  };
  check_refused(classes({"cat", "dog", "cat"}), "'cat' twice");
  check_refused(classes({"cat", "dog"}), "2 logits, one for each class, found 3");
  check_refused(classes({"cat", "dog", ""}), "an empty one");
  check_refused(classes({"cat", "dog", 3}), "found 3");
  check_refused(classes({"cat", "dog", "\x1b[31m"}), "control characters");
  check_refused(classes(json::array()), "a list of 0");
  check_refused(classes("cat"), "found 'cat'");
}

TEST_CASE("layers that make no sense are refused") {
  check_refused(with_layer(2, {{"op", "softplus"}}), "found 'softplus'");
  check_refused(with_layer(2, {{"op", 3}}), "found 3");
  check_refused(with_layer(2, {{"name", "bn"}}), "two of this name");
  check_refused(with_layer(2, {{"name", "input"}}), "two of this name");
  check_refused(with_layer(2, {{"name", ""}}), "an empty one");
  check_refused(with_layer(2, {{"inputs", {"later"}}}), "found 'later'");
  check_refused(with_layer(2, {{"inputs", {"relu"}}}), "found 'relu'");
  check_refused(with_layer(2, {{"inputs", {"bn", "bn"}}}), "found 2");
  check_refused(with_layer(2, {{"inputs", json::array()}}), "found 0");
  check_refused(with_layer(2, {{"op", "add"}}), "found 1");
  check_refused(with_layer(2, {{"op", "concat"}}), "found 1");
  check_refused(with_layer(2, {{"more", 1}}), "found 'more'");
  check_refused(with_layer(0, {{"kernel", {3, 0}}}), "found 0");
  check_refused(with_layer(0, {{"stride", {0, 1}}}), "found 0");
  check_refused(with_layer(0, {{"padding", {-1, 1}}}), "found -1");
  check_refused(with_layer(0, {{"padding", {1}}}), "a list of 1");
  check_refused(with_layer(0, {{"dilation", {1, 2147483648u}}}), "found 2147483648");
  check_refused(with_layer(0, {{"dilation", {4, 1}}}), "layer 'conv'");
  check_refused(with_layer(0, {{"groups", 2}}), "2 groups for 3 to 2 channels");
  check_refused(with_layer(0, {{"groups", true}}), "found true");
  check_refused(with_layer(0, {{"weight", nullptr}}), "found null");
  check_refused(with_layer(1, {{"epsilon", -1}}), "found -1");
  check_refused(with_layer(5, {{"padding", {2, 0}}}), "found 2");
  check_refused(with_layer(5, {{"ceil_mode", 1}}), "found 1");
  check_refused(with_layer(5, {{"kernel", {5, 5}}}), "layer 'pool2'");
  check_refused(with_layer(4, {{"inputs", {"relu"}}}), "found 2x4x4");
  check_refused(edited("offramp.graph", [](json& graph) { graph = json::array(); }), "found 0");
  check_refused(edited("offramp.graph", [](json& graph) { graph = json::object(); }), "an object");
  check_refused(edited("offramp.graph", [](json& graph) { graph[3] = 7; }), "found 7");
}

TEST_CASE("graphs that would need absurd memory are refused") {
  const auto grow = [](const json& layer, int count) {
    return edited("offramp.graph", [&](json& graph) {
      graph = json::array();
      std::string last = "input";
      for (int i = 0; i < count; ++i) {
        json next = layer;
        next["name"] = "l" + std::to_string(i);
        for (json& input : next["inputs"]) input = last;
        last = next["name"];
        graph.push_back(std::move(next));
      }
    });
  };
  check_refused(grow({{"op", "concat"}, {"inputs", {"", ""}}}, 40), "6291456x4x4");
  check_refused(
      grow({{"op", "pad_channels"}, {"inputs", {""}}, {"before", 32768}, {"after", 0}}, 200),
      "layer 'l127'");
  check_refused(grow({{"op", "relu"}, {"inputs", {""}}}, static_cast<int>(kMaxLayers) + 1),
                "found 10001");
}

TEST_CASE("exits must have distinct names, logits and a threshold in [0, 1]") {
  const auto exits = [](const json& list) {
    return edited("offramp.exits", [&](json& value) { value = list; });
  };
  const auto first = [&](const json& fields) {
    return edited("offramp.exits", [&](json& value) { value[0].update(fields); });
  };
  check_refused(exits(json::array()), "a list of 0");
  check_refused(exits({3}), "found 3");
  check_refused(first({{"name", "last"}}), "'last' twice");
  check_refused(first({{"logits", "input"}}), "found 'input'");
  check_refused(first({{"logits", "none"}}), "found 'none'");
  check_refused(first({{"logits", "flat"}}), "found 8");
  check_refused(first({{"logits", "conv"}}), "found 2x4x4");
  check_refused(first({{"threshold", 1.5}}), "found 1.5");
  check_refused(first({{"threshold", -0.1}}), "found -0.1");
  check_refused(first({{"threshold", nullptr}}), "found null");
  check_refused(first({{"threshold", 1e300}}), "found 1e+300");
  check_refused(first({{"more", 1}}), "found 'more'");
}

TEST_CASE("JSON inside the metadata is as strict as the header") {
  TestModel model = small_model();
  model.metadata["offramp.exits"] =
      R"([{"name":"a","name":"b","logits":"fc1","threshold":0.5},{"name":"last","logits":"fc2"}])";
  check_refused(model, "'name' twice");
  model.metadata["offramp.exits"] = std::string(100'000, '[');
  check_refused(model, "found more");
  model.metadata["offramp.exits"] = "[NaN]";
  check_refused(model, "a syntax error");
  model.metadata["offramp.exits"] = R"([{"name":"a","logits":"fc1","threshold":1e999}])";
  check_refused(model, "too large");
}

}  // namespace
}  // namespace offramp
