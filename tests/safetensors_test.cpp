#include "engine/safetensors.h"

#include <doctest/doctest.h>

#include <cstring>

#include "tests/test_files.h"

namespace offramp {
namespace {

using testing::Bytes;
using testing::error_of;
using testing::safetensors_file;

// Two tensors, "a" [2] = 1, 2 and "b" [1, 1] = 3.
const Bytes kData = [] {
  const float values[] = {1, 2, 3};
  Bytes bytes(sizeof(values));
  std::memcpy(bytes.data(), values, sizeof(values));
  return bytes;
}();

constexpr const char* kA = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
constexpr const char* kB = R"("b":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]})";
constexpr const char* kMetadata = R"("__metadata__":{"key":"value"})";

std::string header(const std::string& a, const std::string& b) {
  return "{" + std::string(kMetadata) + "," + a + "," + b + "}";
}

void check_refused(const Bytes& file, const std::string& found) {
  const Error error = error_of([&] { (void)parse_safetensors(file, "x"); });
  const std::string message = error.what();
  INFO(message);
  CHECK(error.kind() == ErrorKind::kBadModel);
  CHECK(message.starts_with("x: "));
  CHECK(message.find("wanted ") != std::string::npos);
  CHECK(message.find(found) != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}

void check_refused(const std::string& text, const std::string& found) {
  check_refused(safetensors_file(text, kData), found);
}

TEST_CASE("tensors and metadata are read") {
  const Bytes file = safetensors_file(header(kA, kB), kData);
  const Safetensors contents = parse_safetensors(file, "x");
  CHECK(contents.metadata == std::map<std::string, std::string>{{"key", "value"}});
  REQUIRE(contents.tensors.size() == 2);
  const Tensor& a = contents.tensors.at("a");
  CHECK(a.shape == std::vector<std::int64_t>{2});
  REQUIRE(a.data.size() == 2);
  CHECK(a.data[1] == 2.0f);
  CHECK(contents.tensors.at("b").shape == std::vector<std::int64_t>{1, 1});
  CHECK(contents.tensors.at("b").data[0] == 3.0f);
}

TEST_CASE("data may stand in another order than the names, metadata may be missing") {
  const Bytes file = safetensors_file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
                                      R"("b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
                                      kData);
  const Safetensors contents = parse_safetensors(file, "x");
  CHECK(contents.metadata.empty());
  CHECK(contents.tensors.at("a").data[0] == 2.0f);
  CHECK(contents.tensors.at("b").data[0] == 1.0f);
}

TEST_CASE("the content hash is BLAKE2b-256 as FORMAT.md lays it out") {
  // Python: hashlib.blake2b(b"key\0value\0" b"a\0F32\0" b"2\0" + data[:8] + b"b\0F32\0" b"1x1\0"
  //                         + data[8:], digest_size=32)
  const Bytes file =
      safetensors_file(R"({"__metadata__":{"key":"value","offramp.hash":"left out"},)" +
                           std::string(kB) + "," + kA + "}",
                       kData);
  const auto hash = content_hash(parse_safetensors(file, "x"));
  const std::array<std::uint8_t, 32> wanted = {0xb3, 0xda, 0xe3, 0x92, 0x5b, 0x6a, 0x18, 0x0f,
                                               0x59, 0xdd, 0xf4, 0x8f, 0x8e, 0x44, 0xe0, 0x65,
                                               0x1c, 0x1a, 0x13, 0x25, 0x0f, 0x34, 0xf0, 0xb3,
                                               0x2f, 0x93, 0xcd, 0x41, 0xdb, 0xaa, 0x38, 0x6c};
  CHECK(hash == wanted);
}

TEST_CASE("lengths that do not fit are refused") {
  check_refused(Bytes{}, "an empty file");
  check_refused(Bytes{1, 0, 0}, "3 bytes");
  check_refused(Bytes(8), "");
  Bytes file = safetensors_file(header(kA, kB), kData);
  file[0] += 8;
  check_refused(file, "found");
  file[0] -= 7;
  check_refused(file, "padded");
  file[7] = 0xff;
  check_refused(file, "found 18");  // near 2^64
  Bytes long_header = safetensors_file(header(kA, kB) + std::string(kMaxHeaderBytes, ' '), kData);
  check_refused(long_header, "found 1048");
  Bytes surplus = safetensors_file(header(kA, kB), kData);
  surplus.push_back(0);
  check_refused(surplus, "found 13");
}

TEST_CASE("a header that is not a plain JSON object is refused") {
  check_refused("[]", "found a list of 0");
  check_refused("null", "found null");
  check_refused(" " + header(kA, kB), "found an object");
  check_refused(header(kA, kB) + "x", "syntax error at byte");
  check_refused(header(kA, kB) + std::string("\0\0\0\0\0\0\0\0", 8), "a NUL byte");
  check_refused(R"({"a":"\xff"})", "syntax error");
  check_refused("{\"\xff\":1}", "syntax error");
  check_refused(R"({"a":1e999})", "too large");
  check_refused(std::string(500'000, '['), "found more");
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += R"({"a":)";
  check_refused(deep, "found more");
}

TEST_CASE("duplicate keys are refused at every level") {
  check_refused(header(kA, kA), "'a' twice");
  check_refused("{" + std::string(kMetadata) + "," + header(kA, kB).substr(1),
                "'__metadata__' twice");
  check_refused(R"({"__metadata__":{"k":"1","\u006b":"2"}})", "'k' twice");
  check_refused(header(R"("a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})", kB),
                "'dtype' twice");
}

TEST_CASE("entries of other types, shapes or fields are refused") {
  const auto entry = [](const std::string& fields) { return header("\"a\":" + fields, kB); };
  check_refused(entry("3"), "found 3");
  check_refused(entry(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})"), "found F16");
  check_refused(entry(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})"), "found 1");
  check_refused(entry(R"({"shape":[2],"data_offsets":[0,8]})"), "found none");
  check_refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})"), "'more'");
  check_refused(entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), "found 2");
  check_refused(entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), "found 8");
  check_refused(entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), "found -2");
  check_refused(entry(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "found 2.0");
  check_refused(entry(R"({"dtype":"F32","shape":[0,2],"data_offsets":[0,8]})"), "found [0,2]");
  check_refused(entry(R"({"dtype":"F32","shape":[4294967296,4294967298],"data_offsets":[0,8]})"),
                "found [4294967296");
  check_refused(entry(R"({"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]})"),
                "found 1.8");
  check_refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"), "a list of 3");
  check_refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), "found [8,0]");
  check_refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,16]})"), "found [8,16]");
  check_refused(R"({"__metadata__":{"k":1}})", "found 1");
  check_refused(R"({"__metadata__":{"k":"a\u0000b"}})", "'a?b'");
  check_refused(R"({"__metadata__":"k"})", "found 'k'");
}

TEST_CASE("overlaps, holes and data left over are refused") {
  const auto b_at = [](const std::string& shape, const std::string& offsets) {
    return header(kA,
                  R"("b":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}");
  };
  check_refused(b_at("[2]", "[4,12]"), "an overlap at byte 4");
  check_refused(b_at("[2]", "[0,8]"), "an overlap at byte 0");
  check_refused(header(R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})", kB),
                "a hole before byte 8");
  check_refused("{" + std::string(kB) + "}", "a hole before byte 8");
  check_refused("{" + std::string(kA) + "}", "found 12");
  check_refused(header(R"("a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]})", kB), "a hole");
}

TEST_CASE("every truncation is refused") {
  const Bytes file = safetensors_file(header(kA, kB), kData);
  for (std::size_t length = 0; length < file.size(); ++length) {
    const Bytes part(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(length));
    CHECK_THROWS_AS(parse_safetensors(part, "x"), Error);
  }
}

}  // namespace
}  // namespace offramp
