#include "engine/json_reader.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

namespace offramp {
namespace {

using nlohmann::json;

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

// nlohmann's parser keeps the last of equal keys and any depth; this watches its events.
class Watch {
 public:
  explicit Watch(const std::string& where) : where_(where) {}

  bool operator()(int /*depth*/, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        keys_.emplace_back();
        if (keys_.size() > kMaxJsonDepth) {
          throw bad_model(where_, "at most " + std::to_string(kMaxJsonDepth) + " levels of nesting",
                          "more");
        }
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys_.back().insert(key).second) {
          throw bad_model(where_, "distinct keys", "'" + printable(key) + "' twice");
        }
        break;
      }
      case json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  const std::string& where_;
  std::vector<std::set<std::string>> keys_;
};

std::string range(int lowest, int highest) {
  return "an integer from " + std::to_string(lowest) + " to " + std::to_string(highest);
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string result(text.substr(0, kLongest));
  for (char& c : result) {
    if (is_control(c)) c = '?';
  }
  if (text.size() > kLongest) result += "...";
  return result;
}

Error bad_model(std::string_view where, std::string_view wanted, std::string_view found) {
  return Error(ErrorKind::kBadModel, std::string(where) + ": wanted " + std::string(wanted) +
                                         ", found " + std::string(found));
}

json parse_json(std::string_view text, const std::string& where) {
  // The parser takes a NUL for the end of its input and would not look at what follows.
  if (text.find('\0') != std::string_view::npos) throw bad_model(where, "JSON", "a NUL byte");
  try {
    return json::parse(text.begin(), text.end(), Watch(where));
  } catch (const json::parse_error& error) {
    throw bad_model(where, "JSON", "a syntax error at byte " + std::to_string(error.byte));
  } catch (const json::out_of_range&) {
    throw bad_model(where, "JSON", "a number too large to be read");
  }
}

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::string:
      return "'" + printable(value.get_ref<const std::string&>()) + "'";
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "a list of " + std::to_string(value.size());
    default:
      return value.dump();
  }
}

int json_integer(const json& value, int lowest, int highest, const std::string& where) {
  // Unsigned numbers beyond int64 are stored as unsigned: compare them before converting.
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT32_MAX) {
    throw bad_model(where, range(lowest, highest), describe(value));
  }
  if (!value.is_number_integer() || value.get<std::int64_t>() < lowest ||
      value.get<std::int64_t>() > highest) {
    throw bad_model(where, range(lowest, highest), describe(value));
  }
  return value.get<int>();
}

float json_number(const json& value, const std::string& where) {
  if (!value.is_number() || std::abs(value.get<double>()) > std::numeric_limits<float>::max()) {
    throw bad_model(where, "a finite number", describe(value));
  }
  return static_cast<float>(value.get<double>());
}

std::string json_text(const json& value, const std::string& where) {
  if (!value.is_string()) throw bad_model(where, "a text", describe(value));
  const auto& text = value.get_ref<const std::string&>();
  if (text.empty()) throw bad_model(where, "a text", "an empty one");
  for (const char c : text) {
    if (is_control(c)) throw bad_model(where, "a text without control characters", describe(value));
  }
  return text;
}

JsonFields::JsonFields(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw bad_model(where_, "an object", describe(object));
}

const json& JsonFields::field(const char* key) {
  const auto found = object_.find(key);
  if (found == object_.end()) throw bad_model(where_, std::string("'") + key + "'", "none");
  used_.insert(key);
  return *found;
}

void JsonFields::fail(const char* key, const std::string& wanted, const json& found) const {
  throw bad_model(where_ + ": " + key, wanted, describe(found));
}

bool JsonFields::boolean(const char* key) {
  const json& value = field(key);
  if (!value.is_boolean()) fail(key, "true or false", value);
  return value.get<bool>();
}

int JsonFields::integer(const char* key, int lowest, int highest) {
  return json_integer(field(key), lowest, highest, where_ + ": " + key);
}

float JsonFields::number(const char* key) { return json_number(field(key), where_ + ": " + key); }

float JsonFields::number(const char* key, float lowest, float highest) {
  const float value = number(key);
  if (value < lowest || value > highest) {
    char wanted[64];
    std::snprintf(wanted, sizeof wanted, "%g to %g", static_cast<double>(lowest),
                  static_cast<double>(highest));
    fail(key, wanted, field(key));
  }
  return value;
}

std::string JsonFields::text(const char* key) { return json_text(field(key), where_ + ": " + key); }

std::string JsonFields::text_or_null(const char* key) {
  return field(key).is_null() ? std::string() : text(key);
}

const json& JsonFields::list(const char* key) {
  const json& value = field(key);
  if (!value.is_array()) fail(key, "a list", value);
  return value;
}

std::array<int, 2> JsonFields::pair(const char* key, int lowest, int highest) {
  const json& value = list(key);
  if (value.size() != 2) fail(key, "a pair", value);
  const std::string at = where_ + ": " + key;
  return {json_integer(value[0], lowest, highest, at), json_integer(value[1], lowest, highest, at)};
}

std::array<float, 3> JsonFields::triple(const char* key) {
  const json& value = list(key);
  if (value.size() != 3) fail(key, "three numbers", value);
  const std::string at = where_ + ": " + key;
  return {json_number(value[0], at), json_number(value[1], at), json_number(value[2], at)};
}

void JsonFields::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (!used_.contains(key)) throw bad_model(where_, "known fields", "'" + printable(key) + "'");
  }
}

}  // namespace offramp
