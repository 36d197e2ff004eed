// Messages as JSON, in the words of tests/fixtures/wire/messages.json and tools/wire_decode.py.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "net/message.h"
#include "tests/test_files.h"

namespace offramp::testing {

/// decode(), or its complaint about another number of frames than two.
std::variant<Message, Malformed> decode_frames(const std::vector<Bytes>& frames,
                                               const DecodeLimits& limits);

/// {"refused": reason}, or the message; an INFER with "tensor": its numbers, or "bad_tensor": why
/// not. The receiver's shape is what the message says.
nlohmann::json wire_json(const std::variant<Message, Malformed>& decoded);

/// Name and frames of each message of a file as tests/fixtures/wire/messages.hex.
std::vector<std::pair<std::string, std::vector<Bytes>>> read_wire_hex(
    const std::filesystem::path& path);

}  // namespace offramp::testing
