#include "tools/output.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/error.h"

namespace offramp::cli {
namespace {

constexpr std::string_view kClearLine = "\r\x1b[K";

bool is_terminal(int descriptor) {
  const char* const kind = std::getenv("TERM");
  return isatty(descriptor) == 1 && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

bool coloured(int descriptor) {
  const char* const refused = std::getenv("NO_COLOR");
  return is_terminal(descriptor) && (refused == nullptr || *refused == '\0');
}

/// Returns errno of the failed write, 0 when all went out.
int write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

unsigned byte_at(const std::string& text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

/// Bytes of the code point that begins there; 0 where none does.
std::size_t utf8_length(const std::string& text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  std::size_t length = 0;
  if (lead < 0x80)
    length = 1;
  else if (lead >= 0xC2 && lead < 0xE0)
    length = 2;
  else if (lead >= 0xE0 && lead < 0xF0)
    length = 3;
  else if (lead >= 0xF0 && lead < 0xF5)
    length = 4;
  if (length > text.size() - at) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte_at(text, at + i) & 0xC0) != 0x80) return 0;
  return length;
}

/// U+0000 to U+001F, U+007F, and U+0080 to U+009F, which some terminals obey as well.
bool is_control(const std::string& text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  return lead < 0x20 || lead == 0x7F || (lead == 0xC2 && byte_at(text, at + 1) < 0xA0);
}

/// Code points, taken for columns.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string printed(const char* format, double value) {
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), format, value);
  return {text.data(), static_cast<std::size_t>(length)};
}

}  // namespace

std::string harmless(const std::string& text) {
  std::string line;
  line.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0 || is_control(text, at))
      line += '?';
    else
      line.append(text, at, length);
    at += std::max<std::size_t>(length, 1);
  }
  return line;
}

void print(std::string_view text) {
  const int error = write_all(STDOUT_FILENO, text);
  if (error == EPIPE) throw BrokenPipe{};
  if (error != 0) {
    throw Error(ErrorKind::kCannotWrite,
                std::string("standard output: wanted to write, found: ") + std::strerror(error));
  }
}

void print_json(const nlohmann::ordered_json& value, int indent) {
  // File names need not be UTF-8; JSON must be.
  print(value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void log(const std::string& line) {
  const std::string_view clear = is_terminal(STDERR_FILENO) ? kClearLine : "";
  // A stderr that cannot be written leaves nobody to tell.
  static_cast<void>(
      write_all(STDERR_FILENO, std::string(clear).append(harmless(line)).append("\n")));
}

void complain(const std::string& message) {
  const bool colour = coloured(STDERR_FILENO);
  const std::string prefix = colour ? "\x1b[1;31mofframp:\x1b[0m " : "offramp: ";
  const std::string_view clear = is_terminal(STDERR_FILENO) ? kClearLine : "";
  static_cast<void>(write_all(
      STDERR_FILENO, std::string(clear).append(prefix).append(harmless(message)).append("\n")));
}

std::string styled(Style style, const std::string& text) {
  if (style == Style::kPlain || !coloured(STDOUT_FILENO)) return text;
  switch (style) {
    case Style::kBold:
      return "\x1b[1m" + text + "\x1b[0m";
    case Style::kDim:
      return "\x1b[2m" + text + "\x1b[0m";
    case Style::kGood:
      return "\x1b[32m" + text + "\x1b[0m";
    case Style::kWarn:
      return "\x1b[33m" + text + "\x1b[0m";
    case Style::kPlain:
      break;
  }
  return text;
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& column : columns_) column.width = std::max(column.width, width_of(column.title));
}

void Table::add(std::vector<std::string> cells, Style style) {
  for (std::size_t i = 0; i < cells.size(); ++i) {
    cells[i] = harmless(cells[i]);
    columns_[i].width = std::max(columns_[i].width, width_of(cells[i]));
  }
  rows_.push_back({std::move(cells), style});
}

std::string Table::line(const std::vector<std::string>& cells, Style style) const {
  std::string text;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const std::size_t width = width_of(cells[i]);
    const std::string space(columns_[i].width > width ? columns_[i].width - width : 0, ' ');
    if (i > 0) text += "  ";
    text += columns_[i].align == Align::kRight ? space + cells[i] : cells[i] + space;
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return styled(style, text) + "\n";
}

std::string Table::header() const {
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  return line(titles, Style::kDim);
}

std::string Table::text() const {
  std::string text = header();
  for (const Row& row : rows_) text += line(row.cells, row.style);
  return text;
}

std::string format_fixed(double value, int digits) {
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return {text.data(), static_cast<std::size_t>(length)};
}

std::string format_percent(double fraction) { return format_fixed(100.0 * fraction, 2) + " %"; }

std::string format_entropy(double value) {
  return value != 0.0 && std::fabs(value) < 1e-4 ? printed("%.1e", value) : printed("%.4f", value);
}

std::string format_macs(double macs) {
  if (macs >= 1e9) return printed("%.2f G", macs / 1e9);
  if (macs >= 1e6) return printed("%.2f M", macs / 1e6);
  if (macs >= 1e3) return printed("%.1f k", macs / 1e3);
  return printed("%.0f", macs);
}

std::string format_grouped(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

std::string format_ms(double microseconds) { return printed("%.2f ms", microseconds / 1e3); }

std::string format_short(double value) { return printed("%.6g", value); }

const char* tier_of(std::size_t segment) {
  return segment == 0 ? "device" : segment == 1 ? "edge" : "cloud";
}

std::string format_hex(float value) { return printed("%a", static_cast<double>(value)); }

Progress::Progress(std::string label, std::size_t total)
    : label_(std::move(label)),
      total_(total),
      visible_(is_terminal(STDERR_FILENO) && total > 0),
      begun_(std::chrono::steady_clock::now()),
      drawn_(begun_) {}

Progress::~Progress() {
  if (visible_) static_cast<void>(write_all(STDERR_FILENO, kClearLine));
}

void Progress::advance(std::size_t steps) {
  const std::size_t done = done_.fetch_add(steps) + steps;
  if (!visible_) return;
  const std::unique_lock<std::mutex> lock(drawing_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  draw(done);
}

void Progress::draw(std::size_t done) {
  constexpr std::size_t kCells = 30;
  const double share = std::min(
      1.0, static_cast<double>(done) / static_cast<double>(std::max<std::size_t>(total_, 1)));
  const auto full = static_cast<std::size_t>(share * kCells);
  const double elapsed = std::chrono::duration<double>(drawn_ - begun_).count();
  const double left = share > 0.0 ? elapsed * (1.0 - share) / share : 0.0;
  const std::string text = std::string(kClearLine) + label_ + " [" + std::string(full, '#') +
                           std::string(kCells - full, '.') + "] " + format_grouped(done) + "/" +
                           format_grouped(total_) + "  " + printed("%.0f s left", left);
  static_cast<void>(write_all(STDERR_FILENO, text));
}

OutputFile::OutputFile(std::filesystem::path path)
    : path_(std::move(path)), file_(std::fopen(path_.c_str(), "wbe")) {
  if (file_ == nullptr) fail();
}

OutputFile::~OutputFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void OutputFile::write(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail();
}

void OutputFile::close() {
  if (std::fclose(std::exchange(file_, nullptr)) != 0) fail();
}

void OutputFile::fail() const {
  throw Error(ErrorKind::kCannotWrite,
              path_.string() + ": wanted a file to write to, found: " + std::strerror(errno));
}

}  // namespace offramp::cli
