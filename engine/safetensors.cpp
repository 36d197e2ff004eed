#include "engine/safetensors.h"

#include <sodium.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <string_view>
#include <utility>

#include "engine/error.h"
#include "engine/json_reader.h"

namespace offramp {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

constexpr std::size_t kLengthBytes = 8;

std::uint64_t header_length(std::span<const std::uint8_t> file, const std::string& origin) {
  if (file.size() < kLengthBytes) {
    throw bad_model(origin, "a safetensors file",
                    file.empty() ? "an empty file" : std::to_string(file.size()) + " bytes");
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) length |= std::uint64_t{file[i]} << (8 * i);
  if (length > kMaxHeaderBytes) {
    throw bad_model(origin,
                    "a safetensors header of at most " + std::to_string(kMaxHeaderBytes) + " bytes",
                    std::to_string(length));
  }
  if (length > file.size() - kLengthBytes) {
    throw bad_model(
        origin, "a header of " + std::to_string(length) + " bytes",
        std::to_string(file.size() - kLengthBytes) + " bytes before the end of the file");
  }
  // Floats are read where they lie, so the data must begin at a multiple of their size; the format
  // pads to 8 or more.
  if (length % 8 != 0) {
    throw bad_model(origin, "a header padded to a multiple of 8 bytes", std::to_string(length));
  }
  return length;
}

std::uint64_t unsigned_of(const json& value, const std::string& where) {
  if (!value.is_number_unsigned()) throw bad_model(where, "a size", describe(value));
  return value.get<std::uint64_t>();
}

// The content hash separates its texts by NUL: with one inside a text, two contents could share a
// hash.
void refuse_nul(const std::string& text, const std::string& where) {
  if (text.find('\0') != std::string::npos) {
    throw bad_model(where, "text without NUL", "'" + printable(text) + "'");
  }
}

// Where a tensor's data lie, in bytes from the end of the header.
struct Extent {
  std::uint64_t begin = 0, end = 0;
  std::string_view name;
};

Extent read_extent(const json& entry, std::string_view name, std::uint64_t data_bytes,
                   const std::string& where, std::vector<std::int64_t>& shape) {
  JsonFields fields(entry, where);
  if (const std::string dtype = fields.text("dtype"); dtype != "F32") {
    throw bad_model(where, "dtype F32", printable(dtype));
  }
  const json& offsets = fields.list("data_offsets");
  if (offsets.size() != 2) throw bad_model(where, "two data_offsets", describe(offsets));
  const Extent extent{unsigned_of(offsets[0], where), unsigned_of(offsets[1], where), name};
  if (extent.begin > extent.end || extent.end > data_bytes) {
    throw bad_model(where, "data_offsets within " + std::to_string(data_bytes) + " bytes of data",
                    offsets.dump());
  }
  std::uint64_t elements = 1;
  for (const json& dimension : fields.list("shape")) {
    const std::uint64_t size = unsigned_of(dimension, where);
    // Bounding by the file's size first keeps the product within 64 bits.
    if (size == 0 || size > data_bytes / sizeof(float) / elements) {
      throw bad_model(where, "a shape that fits the file", entry["shape"].dump());
    }
    elements *= size;
    shape.push_back(static_cast<std::int64_t>(size));
  }
  fields.finish();
  if (extent.end - extent.begin != elements * sizeof(float)) {
    throw bad_model(where,
                    std::to_string(elements * sizeof(float)) + " bytes for " + to_string(shape),
                    std::to_string(extent.end - extent.begin));
  }
  return extent;
}

void check_cover(std::vector<Extent>& extents, std::uint64_t data_bytes,
                 const std::string& origin) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t position = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != position) {
      throw bad_model(origin + ": tensor '" + printable(extent.name) + "'",
                      "data at byte " + std::to_string(position),
                      (extent.begin < position ? "an overlap at byte " : "a hole before byte ") +
                          std::to_string(extent.begin));
    }
    position = extent.end;
  }
  if (position != data_bytes) {
    throw bad_model(origin, std::to_string(position) + " bytes of data",
                    std::to_string(data_bytes));
  }
}

std::map<std::string, std::string> read_metadata(const json& entry, const std::string& where) {
  if (!entry.is_object()) throw bad_model(where, "an object", describe(entry));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      throw bad_model(where + ": " + printable(key), "a string", describe(value));
    }
    metadata[key] = value.get<std::string>();
    refuse_nul(key, where);
    refuse_nul(metadata[key], where);
  }
  return metadata;
}

}  // namespace

std::string to_string(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

Safetensors parse_safetensors(std::span<const std::uint8_t> file, const std::string& origin) {
  assert(reinterpret_cast<std::uintptr_t>(file.data()) % alignof(float) == 0);
  const std::uint64_t length = header_length(file, origin);
  const auto header_bytes = file.subspan(kLengthBytes, length);
  const auto data = file.subspan(kLengthBytes + length);
  const json header =
      parse_json({reinterpret_cast<const char*>(header_bytes.data()), header_bytes.size()},
                 origin + ": header");
  if (header_bytes.empty() || header_bytes[0] != '{' || !header.is_object()) {
    throw bad_model(origin + ": header", "a JSON object at its first byte", describe(header));
  }

  Safetensors contents;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      contents.metadata = read_metadata(entry, origin + ": __metadata__");
      continue;
    }
    refuse_nul(name, origin + ": header");
    Tensor tensor;
    const Extent extent = read_extent(entry, name, data.size(),
                                      origin + ": tensor '" + printable(name) + "'", tensor.shape);
    // Offsets are not yet known to be multiples of 4; check_cover proves it: lengths are, and the
    // first begins at 0.
    tensor.data = {reinterpret_cast<const float*>(data.data() + extent.begin),
                   static_cast<std::size_t>((extent.end - extent.begin) / sizeof(float))};
    const auto placed = contents.tensors.emplace(name, std::move(tensor)).first;
    extents.push_back({extent.begin, extent.end, placed->first});
  }
  check_cover(extents, data.size(), origin);
  return contents;
}

std::array<std::uint8_t, 32> content_hash(const Safetensors& contents) {
  // Idempotent, and safe from any thread.
  if (sodium_init() < 0)
    throw Error(ErrorKind::kSystem, "libsodium: wanted it to start, found a failure");
  crypto_generichash_state state;
  std::array<std::uint8_t, 32> digest{};
  crypto_generichash_init(&state, nullptr, 0, digest.size());
  const auto add = [&](const void* data, std::size_t size) {
    crypto_generichash_update(&state, static_cast<const unsigned char*>(data), size);
  };
  const auto add_text = [&](const std::string& text) { add(text.c_str(), text.size() + 1); };
  for (const auto& [key, value] : contents.metadata) {
    if (key == "offramp.hash") continue;
    add_text(key);
    add_text(value);
  }
  for (const auto& [name, tensor] : contents.tensors) {
    std::string dimensions;
    for (const std::int64_t size : tensor.shape) {
      dimensions += (dimensions.empty() ? "" : "x") + std::to_string(size);
    }
    add_text(name);
    add_text("F32");
    add_text(dimensions);
    add(tensor.data.data(), tensor.data.size_bytes());
  }
  crypto_generichash_final(&state, digest.data(), digest.size());
  return digest;
}

}  // namespace offramp
