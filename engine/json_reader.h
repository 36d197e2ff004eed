// JSON from files nobody vouches for: strict, small, with one-line errors.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"

namespace offramp {

/// Deepest nesting accepted; what offramp's files need is 3.
inline constexpr int kMaxJsonDepth = 8;

/// `text` fit to stand in a one-line message: control characters replaced, long text cut.
std::string printable(std::string_view text);

/// Error{kBadModel} "WHERE: wanted WANTED, found FOUND".
Error bad_model(std::string_view where, std::string_view wanted, std::string_view found);

/// Parses one JSON text. Throws Error{kBadModel} for a syntax error, bytes that are not UTF-8, a
/// NUL, a duplicate key at any level, a number out of double's range, or nesting beyond
/// kMaxJsonDepth.
nlohmann::json parse_json(std::string_view text, const std::string& where);

/// What `value` is, for "found ...": "a string", "12", "a list of 3".
std::string describe(const nlohmann::json& value);

/// Typed access to the fields of one JSON object. Every getter throws Error{kBadModel} when the
/// field is missing, of another type or out of range; finish() throws when a field was never asked
/// for.
class JsonFields {
 public:
  /// Keeps a reference to `object`.
  JsonFields(const nlohmann::json& object, std::string where);

  bool has(const char* key) const { return object_.contains(key); }
  bool boolean(const char* key);
  int integer(const char* key, int lowest, int highest);
  /// Finite as a float.
  float number(const char* key);
  float number(const char* key, float lowest, float highest);
  /// Not empty, without control characters.
  std::string text(const char* key);
  /// Like text(), and empty for null.
  std::string text_or_null(const char* key);
  const nlohmann::json& list(const char* key);
  /// Whatever it is: for the reader of its fields.
  const nlohmann::json& object(const char* key) { return field(key); }
  /// Exactly two integers.
  std::array<int, 2> pair(const char* key, int lowest, int highest);
  /// Exactly three finite numbers.
  std::array<float, 3> triple(const char* key);

  /// Lets the field be there, whatever it holds.
  void skip(const char* key) { used_.insert(key); }
  void finish() const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& field(const char* key);
  [[noreturn]] void fail(const char* key, const std::string& wanted,
                         const nlohmann::json& found) const;

  const nlohmann::json& object_;
  std::string where_;
  std::set<std::string, std::less<>> used_;
};

/// Elements of a list, as JsonFields' getters of the same name.
int json_integer(const nlohmann::json& value, int lowest, int highest, const std::string& where);
float json_number(const nlohmann::json& value, const std::string& where);
std::string json_text(const nlohmann::json& value, const std::string& where);

}  // namespace offramp
