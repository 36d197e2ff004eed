#include "tools/logger.h"

#include <poll.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "tools/options.h"
#include "tools/output.h"

namespace offramp::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kLevels[] = {"debug", "info", "warning", "error"};  // by LogLevel
constexpr std::string_view kFormats[] = {"text", "json"};                      // by Format

// How long a reader who has stopped reading is waited for, once.
constexpr int kPatienceMs = 50;

/// One line after the other to stderr, without ever waiting long.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit StderrSink(bool json) : json_(json) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (lost_ > 0 && writable()) {
      const std::string line = lost_line(std::exchange(lost_, 0));
      write(spdlog::details::log_msg(message.time, {}, {}, spdlog::level::warn, line));
    }
    if (lost_ > 0 || !writable())
      ++lost_;
    else
      write(message);
  }
  void flush_() override {}

  /// A pipe that is ready takes PIPE_BUF bytes without a wait; a file always does.
  bool writable() {
    pollfd item{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    stuck_ = poll(&item, 1, stuck_ ? 0 : kPatienceMs) <= 0;
    return !stuck_;
  }

  std::string lost_line(std::size_t lost) const {
    const std::string text = std::to_string(lost) + " lines lost: nobody read them";
    return json_ ? R"("message":")" + text + '"' : text;
  }

  void write(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t text;
    formatter_->format(message, text);
    cli::log(std::string(text.data(), std::min<std::size_t>(text.size(), PIPE_BUF - 16)));
  }

  bool json_;
  bool stuck_ = false;
  std::size_t lost_ = 0;
};

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

std::string pattern(Tier tier, Logger::Format format) {
  if (format == Logger::Format::kText) return "%v";
  // The message brings its own name and quotes, and further members.
  return std::string(R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","tier":")") + tier_name(tier) +
         R"(",%v})";
}

/// A line goes into a pipe at once or not at all, and cut JSON is none.
std::string shortened(const std::string& text) {
  constexpr std::size_t kMost = 700;
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

template <std::size_t count>
std::size_t index_of(const std::string_view (&names)[count], const std::string& text) {
  return static_cast<std::size_t>(std::ranges::find(names, text) - std::begin(names));
}

}  // namespace

Logger::Logger(Tier tier, Format format, LogLevel least)
    : format_(format),
      logger_(std::make_unique<spdlog::logger>(
          "offramp", std::make_shared<StderrSink>(format == Format::kJson))) {
  // spdlog writes no trailing newline of its own where the line is written by log().
  logger_->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      pattern(tier, format), spdlog::pattern_time_type::utc, ""));
  logger_->set_level(spdlog_level(least));
}

Logger::~Logger() = default;

void Logger::say(LogLevel level, const std::string& message) const {
  say(level, message, Json::object());
}

void Logger::say(LogLevel level, const std::string& message, const Json& fields) const {
  std::string text = level == LogLevel::kError ? "offramp: " + message : message;
  if (format_ == Format::kJson) {
    Json members = {{"message", shortened(message)}};
    members.update(fields);
    for (auto& [key, value] : members.items())
      if (value.is_string()) value = shortened(value.get<std::string>());
    // Names of files and peers need not be UTF-8; JSON must be.
    text = members.dump(-1, ' ', false, Json::error_handler_t::replace);
    text = text.substr(1, text.size() - 2);
  }
  logger_->log(spdlog_level(level), spdlog::string_view_t(text));
}

Log Logger::callback() const {
  return [this](LogLevel level, const std::string& line) { say(level, line); };
}

void LogOptions::add_to(CLI::App& app, CLI::Option* flag, const std::string& usual_level) {
  app.add_option("--log-format", format_, "text, or JSON: one object a line [text]")
      ->type_name("text|json")
      ->check(one_of({std::begin(kFormats), std::end(kFormats)}));
  app.add_option(
         "--log-level", level_,
         "debug, info, warning or error: how grave it must\nbe to be logged [" + usual_level + "]")
      ->check(one_of({std::begin(kLevels), std::end(kLevels)}))
      ->excludes(flag)
      ->option_text("LEVEL");
  flag->option_text(" ");
}

Logger LogOptions::make(Tier tier, LogLevel usual) const {
  const auto format =
      format_.empty() ? Logger::Format::kText : Logger::Format(index_of(kFormats, format_));
  return {tier, format, level_.empty() ? usual : LogLevel(index_of(kLevels, level_))};
}

}  // namespace offramp::cli
