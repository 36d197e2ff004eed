// Everything the program says: results to stdout, the rest to stderr.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace offramp::cli {

/// A file's name or what a peer says may hold a newline or an escape sequence: the same as one line
/// of UTF-8 that no terminal obeys.
std::string harmless(const std::string& text);

/// Thrown by print() when the reader of stdout is gone; the program then ends quietly.
struct BrokenPipe {};

/// Writes to stdout at once. Throws BrokenPipe or Error{kCannotWrite}.
void print(std::string_view text);

/// Prints compact JSON (`indent` < 0) or an indented object, and a newline.
void print_json(const nlohmann::ordered_json& value, int indent = -1);

/// One line to stderr, control characters made harmless, over any progress bar.
void log(const std::string& line);

/// An error's line to stderr: "offramp: ...".
void complain(const std::string& message);

enum class Style { kPlain, kBold, kDim, kGood, kWarn };

/// `text` in a style when stdout is a terminal and NO_COLOR is not set.
std::string styled(Style style, const std::string& text);

/// Text in columns. Widths are fixed before the first line, so that lines can be printed one by
/// one.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
    std::size_t width = 0;  ///< at least; the title and add()ed cells widen it
  };

  explicit Table(std::vector<Column> columns);

  /// A row to be printed by text(). One style for the whole row.
  void add(std::vector<std::string> cells, Style style = Style::kPlain);
  /// Header and all added rows.
  std::string text() const;

  std::string header() const;
  /// One line; cells that are too long move the rest to the right.
  std::string line(const std::vector<std::string>& cells, Style style = Style::kPlain) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    Style style;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

/// "12.34 %", "0.0213", "14.2 M", "65,536", "0.71 ms" (from microseconds), shortest "0.3".
std::string format_percent(double fraction);
std::string format_fixed(double value, int digits);
std::string format_entropy(double value);
std::string format_macs(double macs);
std::string format_grouped(std::uint64_t value);
std::string format_ms(double microseconds);
std::string format_short(double value);
/// The tier that owns a segment of the network: "device", "edge", then "cloud".
const char* tier_of(std::size_t segment);
/// The exact bits of a float: "0x1.8p-1".
std::string format_hex(float value);

/// A bar on stderr when that is a terminal; nothing otherwise. advance() may come from any thread.
class Progress {
 public:
  Progress(std::string label, std::size_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::size_t steps);

 private:
  void draw(std::size_t done);

  std::string label_;
  std::size_t total_;
  bool visible_;
  std::chrono::steady_clock::time_point begun_;
  std::chrono::steady_clock::time_point drawn_;
  std::atomic<std::size_t> done_{0};
  std::mutex drawing_;
};

/// A file being written. Opened by the constructor, so that a bad path fails before the work.
class OutputFile {
 public:
  /// Throws Error{kCannotWrite}.
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::string_view bytes);
  /// Without it, the file is taken to be incomplete and its state is unspecified.
  void close();

 private:
  [[noreturn]] void fail() const;

  std::filesystem::path path_;
  std::FILE* file_;
};

}  // namespace offramp::cli
