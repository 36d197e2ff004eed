#include "tests/test_files.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/safetensors.h"

namespace offramp::testing {
namespace {

using nlohmann::json;

void append_big(Bytes& bytes, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

void append(Bytes& bytes, std::span<const std::uint8_t> more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

// Bit by bit: the slow twin of the engine's table.
std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  std::uint32_t crc = ~0u;
  for (const std::uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

std::uint32_t adler32(std::span<const std::uint8_t> bytes) {
  std::uint32_t a = 1, b = 0;
  for (const std::uint8_t byte : bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b << 16 | a;
}

TestTensor filled(std::vector<std::int64_t> shape, float start) {
  TestTensor tensor{std::move(shape), {}};
  std::int64_t count = 1;
  for (const std::int64_t size : tensor.shape) count *= size;
  for (std::int64_t i = 0; i < count; ++i) {
    tensor.data.push_back(start + 0.25f * static_cast<float>(i % 5));
  }
  return tensor;
}

}  // namespace

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "offramp-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path TempDir::write(const std::string& name,
                                     std::span<const std::uint8_t> bytes) const {
  std::filesystem::path path = path_ / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
  return path;
}

std::filesystem::path TempDir::write(const std::string& name, std::string_view text) const {
  return write(name, std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

Bytes safetensors_file(std::string header, std::span<const std::uint8_t> data) {
  while (header.size() % 8 != 0) header += ' ';
  Bytes bytes;
  for (std::size_t i = 0; i < 8; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(header.size() >> (8 * i)));
  }
  bytes.insert(bytes.end(), header.begin(), header.end());
  append(bytes, data);
  return bytes;
}

Bytes TestModel::file() const {
  json header = json::object();
  header["__metadata__"] = metadata;
  Bytes data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    const auto* raw = reinterpret_cast<const std::uint8_t*>(tensor.data.data());
    append(data, {raw, tensor.data.size() * sizeof(float)});
    header[name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return safetensors_file(header.dump(), data);
}

Bytes TestModel::signed_file() const {
  Safetensors contents;
  contents.metadata = metadata;
  for (const auto& [name, tensor] : tensors) contents.tensors[name] = {tensor.shape, tensor.data};
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hash;
  for (const std::uint8_t byte : content_hash(contents)) {
    hash += kDigits[byte >> 4];
    hash += kDigits[byte & 15];
  }
  TestModel with_hash = *this;
  with_hash.metadata["offramp.hash"] = hash;
  return with_hash.file();
}

TestModel small_model() {
  TestModel model;
  model.metadata = {
      {"format", "offramp"},
      {"offramp.version", "1"},
      {"offramp.name", "small"},
      {"offramp.input",
       R"({"shape":[3,4,4],"resize":"stretch","mean":[0.5,0.4,0.3],"std":[0.2,0.25,0.5]})"},
      {"offramp.classes", R"(["cat","dog","owl"])"},
      {"offramp.graph", R"([
{"name":"conv","op":"conv2d","inputs":["input"],"kernel":[3,3],"stride":[1,1],"padding":[1,1],"dilation":[1,1],"groups":1,"weight":"conv.weight","bias":null},
{"name":"bn","op":"batch_norm","inputs":["conv"],"weight":"bn.weight","bias":"bn.bias","mean":"bn.running_mean","variance":"bn.running_var","epsilon":1e-05},
{"name":"relu","op":"relu","inputs":["bn"]},
{"name":"pool1","op":"global_average_pool","inputs":["relu"]},
{"name":"fc1","op":"linear","inputs":["pool1"],"weight":"fc1.weight","bias":"fc1.bias"},
{"name":"pool2","op":"max_pool","inputs":["relu"],"kernel":[2,2],"stride":[2,2],"padding":[0,0],"ceil_mode":false},
{"name":"flat","op":"flatten","inputs":["pool2"]},
{"name":"fc2","op":"linear","inputs":["flat"],"weight":"fc2.weight","bias":"fc2.bias"}])"},
      {"offramp.exits",
       R"([{"name":"first","logits":"fc1","threshold":0.5},{"name":"last","logits":"fc2","threshold":1}])"},
  };
  model.tensors = {
      {"conv.weight", filled({2, 3, 3, 3}, -0.5f)},
      {"bn.weight", filled({2}, 1.0f)},
      {"bn.bias", filled({2}, 0.1f)},
      {"bn.running_mean", filled({2}, 0.0f)},
      {"bn.running_var", filled({2}, 1.0f)},
      {"fc1.weight", filled({3, 2}, -0.25f)},
      {"fc1.bias", filled({3}, 0.0f)},
      {"fc2.weight", filled({3, 8}, -0.5f)},
      {"fc2.bias", filled({3}, 0.5f)},
  };
  return model;
}

Bytes png_chunk(const std::string& type, std::span<const std::uint8_t> data) {
  Bytes chunk;
  append_big(chunk, static_cast<std::uint32_t>(data.size()));
  chunk.insert(chunk.end(), type.begin(), type.end());
  append(chunk, data);
  append_big(chunk, crc32(std::span(chunk).subspan(4)));
  return chunk;
}

Bytes encode_png(const Picture& picture) {
  const auto row_bytes = static_cast<std::size_t>(picture.width) * 3;
  Bytes rows;
  for (std::size_t y = 0; y < static_cast<std::size_t>(picture.height); ++y) {
    rows.push_back(0);  // no filter
    append(rows, std::span(picture.rgb).subspan(y * row_bytes, row_bytes));
  }
  if (rows.size() > 65535) throw std::logic_error("encode_png is for tiny pictures");
  const auto size = static_cast<std::uint16_t>(rows.size());
  const auto inverse = static_cast<std::uint16_t>(~size);
  // zlib header, one final stored block with its length twice (little-endian), checksum.
  Bytes data{0x78,
             0x01,
             0x01,
             static_cast<std::uint8_t>(size),
             static_cast<std::uint8_t>(size >> 8),
             static_cast<std::uint8_t>(inverse),
             static_cast<std::uint8_t>(inverse >> 8)};
  append(data, rows);
  append_big(data, adler32(rows));

  Bytes header;
  append_big(header, static_cast<std::uint32_t>(picture.width));
  append_big(header, static_cast<std::uint32_t>(picture.height));
  append(header, Bytes{8, 2, 0, 0, 0});  // 8 bits, RGB
  Bytes file{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  append(file, png_chunk("IHDR", header));
  append(file, png_chunk("IDAT", data));
  append(file, png_chunk("IEND", {}));
  return file;
}

Picture random_picture(int width, int height, std::uint32_t seed) {
  Picture picture{width, height, {}};
  picture.rgb.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  for (std::uint8_t& value : picture.rgb) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<std::uint8_t>(seed >> 24);
  }
  return picture;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t b : bytes) {
    text.push_back(kDigits[b >> 4]);
    text.push_back(kDigits[b & 15]);
  }
  return text;
}

}  // namespace offramp::testing
