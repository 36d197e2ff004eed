#include "tools/manual.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "tools/options.h"

namespace offramp::cli {
namespace {

std::vector<const CLI::App*> shown_commands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* each) { return !each->get_group().empty(); });
}

std::vector<const CLI::Option*> shown_options(const CLI::App& app) {
  return app.get_options([](const CLI::Option* each) { return !each->get_group().empty(); });
}

/// Text as man(7) takes it literally, at the beginning of a line too.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool begins = out.empty() || out.back() == '\n';
    if (begins && (c == '.' || c == '\'')) out += "\\&";
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '\'':
        out += "\\(aq";
        break;
      case '`':
        out += "\\(ga";
        break;
      case '^':
        out += "\\(ha";
        break;
      case '~':
        out += "\\(ti";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + escaped(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + escaped(text) + "\\fR"; }

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(' ') + 1 - first);
}

std::string heading(const std::string& title, const char* request) {
  return std::string(request) + " \"" + escaped(title) + "\"\n";
}

std::string capitals(std::string text) {
  for (char& c : text)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return text;
}

/// "    69  unavailable: ..." in two columns; nothing for another line.
std::optional<std::pair<std::string, std::string>> two_columns(const std::string& line) {
  const std::size_t name = line.find_first_not_of(' ');
  if (name == 0 || name == std::string::npos) return {};
  const std::size_t gap = line.find("  ", name);
  if (gap == std::string::npos) return {};
  return {{line.substr(name, gap - name), trimmed(line.substr(gap))}};
}

/// A footer's blocks between blank lines.
class Footer {
 public:
  explicit Footer(const std::string& text) : lines_(split(text, '\n')) {}

  /// `request` begins a titled block. Titles of `names` are replaced.
  std::string page(const char* request, const std::map<std::string, std::string>& names) {
    std::string out;
    for (at_ = 0; at_ < lines_.size();) {
      const std::string& line = lines_[at_];
      const bool indented_next = at_ + 1 < lines_.size() && lines_[at_ + 1].starts_with("  ");
      const bool first = at_ == 0 || lines_[at_ - 1].empty();
      if (line.empty()) {
        if (++at_ < lines_.size() && !titled(at_) && !out.empty()) out += ".PP\n";
      } else if (line.starts_with("  ")) {
        out += indented();
      } else if (first && indented_next && titled(at_)) {
        const std::string title = line.substr(0, line.size() - 1);
        const auto other = names.find(title);
        out += heading(other == names.end() ? title : other->second, request);
        ++at_;
      } else {
        out += escaped(line) + "\n";
        ++at_;
      }
    }
    return out;
  }

 private:
  /// "Examples:", and no sentence.
  bool titled(std::size_t at) const {
    const std::string& line = lines_[at];
    return line.ends_with(':') && line.size() < 20;
  }

  std::string indented() {
    const std::size_t begin = at_;
    while (at_ < lines_.size() && lines_[at_].starts_with("  ")) ++at_;
    return two_columns(lines_[begin]) ? list(begin) : verbatim(begin);
  }

  std::string list(std::size_t at) const {
    const std::size_t column = lines_[at].find(two_columns(lines_[at])->second);
    std::string out;
    for (; at < at_; ++at) {
      const std::string& line = lines_[at];
      if (line.find_first_not_of(' ') >= column) {
        out += escaped(trimmed(line)) + "\n";
      } else {
        const auto columns = two_columns(line).value_or(std::pair{trimmed(line), std::string()});
        out += ".TP\n" + bold(columns.first) + "\n" + escaped(columns.second) + "\n";
      }
    }
    return out + ".PP\n";
  }

  std::string verbatim(std::size_t at) const {
    std::string out = ".PP\n.RS 4\n.nf\n";
    for (; at < at_; ++at) out += escaped(lines_[at].substr(2)) + "\n";
    return out + ".fi\n.RE\n.PP\n";
  }

  std::vector<std::string> lines_;
  std::size_t at_ = 0;
};

/// Without the breaks of paragraphs where something else breaks anyway, of which mandoc complains.
std::string tidy(const std::string& page) {
  const auto heads = [](const std::string& line) {
    return line.starts_with(".SH") || line.starts_with(".SS");
  };
  std::string out;
  bool broken = false, fresh = true;
  for (const std::string& line : split(page, '\n')) {
    if (line == ".PP") {
      broken = true;
      continue;
    }
    if (line.empty()) continue;
    if (broken && !fresh && !heads(line) && line != ".TP") out += ".PP\n";
    out += line + "\n";
    broken = false;
    fresh = heads(line);
  }
  return out;
}

/// " HOST:PORT ...", as the help has it, without what excludes what.
std::string value_of(const CLI::Option& option) {
  std::string text = trimmed(option.get_option_text());
  if (text.empty() && option.get_type_size() != 0) text = option.get_type_name();
  const bool many = option.get_expected_max() == CLI::detail::expected_max_vector_size;
  if (many && !text.ends_with("...")) text += text.empty() ? "..." : " ...";
  return text.empty() ? "" : " " + italic(text);
}

std::string item(const CLI::Option& option) {
  std::string names, description = option.get_description(), excluded;
  for (const std::string& name : split(option.get_name(option.get_positional(), true), ','))
    names += (names.empty() ? "" : ", ") + (option.get_positional() ? italic(name) : bold(name));
  if (option.get_required() && !option.get_positional()) description += " (required)";
  for (const CLI::Option* const other : option.get_excludes())
    excluded += (excluded.empty() ? "; not beside " : ", ") + bold(other->get_name());
  std::ranges::replace(description, '\n', ' ');
  return ".TP\n" + names + value_of(option) + "\n" + escaped(description) + excluded + "\n";
}

std::string synopsis(const CLI::App& app, const std::string& name) {
  std::string line = bold(name) + " [" + italic("OPTIONS") + "]";
  for (const CLI::Option* const option : shown_options(app)) {
    if (!option->get_positional()) continue;
    std::string word = italic(option->get_name(true));
    if (option->get_expected_max() == CLI::detail::expected_max_vector_size) word += "...";
    line += " " + (option->get_required() ? word : "[" + word + "]");
  }
  return line;
}

/// A line for every command; of one that only holds others, theirs.
std::string synopses(const CLI::App& app, const std::string& name) {
  const std::vector<const CLI::App*> inner = shown_commands(app);
  if (inner.empty()) return ".br\n" + synopsis(app, name) + "\n";
  std::string out;
  for (const CLI::App* const each : inner) out += synopses(*each, name + " " + each->get_name());
  return out;
}

std::string command_page(const CLI::App& app, const std::string& parent) {
  const std::string name = parent + " " + app.get_name();
  const std::vector<const CLI::App*> inner = shown_commands(app);
  std::string out;
  // A command that only holds others says nothing that they do not.
  if (inner.empty()) {
    out = heading(name, ".SS") + synopsis(app, name) + "\n.PP\n" + escaped(app.get_description()) +
          ".\n";
    for (const bool positionals : {true, false})
      for (const CLI::Option* const option : shown_options(app))
        if (option->get_positional() == positionals && option->get_name() != "--help")
          out += item(*option);
    out += ".PP\n" + Footer(app.get_footer()).page(".PP\n.B", {});
  }
  for (const CLI::App* const each : inner) out += command_page(*each, name);
  return out;
}

/// The words that may follow the option: "edge cloud"; none for "DIR|FILE".
std::string choices(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type.find('|') == std::string::npos || capitals(type) == type) return {};
  std::string words = type;
  std::ranges::replace(words, '|', ' ');
  return words;
}

/// "offramp node" and all others, as the pattern of a case.
std::string command_names(const CLI::App& app, const std::string& words) {
  std::string out;
  for (const CLI::App* const each : shown_commands(app)) {
    const std::string name = words + " " + each->get_name();
    out += (out.empty() ? "'" : "|'") + name + "'";
    if (!shown_commands(*each).empty()) out += "|" + command_names(*each, name);
  }
  return out;
}

/// The arms of a case on "offramp node" and the like: what may come next in that command.
std::string completion_arms(const CLI::App& app, const std::string& words) {
  std::string next, values;
  for (const CLI::App* const each : shown_commands(app)) next += each->get_name() + " ";
  for (const CLI::Option* const option : shown_options(app)) {
    std::string patterns;
    for (const std::string& name : split(option->get_name(false, true), ',')) {
      if (!name.starts_with('-')) continue;
      if (name.starts_with("--")) next += name + " ";
      patterns += (patterns.empty() ? "" : "|") + name;
    }
    if (const std::string known = choices(*option); !known.empty() && !patterns.empty())
      values.append("        " + patterns + ") values='").append(known).append("' ;;\n");
  }
  std::string out = "    '" + words + "')\n      words='" + trimmed(next) + "'\n";
  if (!values.empty()) out += "      case \"$previous\" in\n" + values + "      esac\n";
  out += "      ;;\n";
  for (const CLI::App* const each : shown_commands(app))
    out += completion_arms(*each, words + " " + each->get_name());
  return out;
}

}  // namespace

std::string bash_completion(const CLI::App& root) {
  const std::string& name = root.get_name();
  return "# Words of " + name + " for bash; what is neither a command nor an option is a file.\n_" +
         name + R"(() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local words='' values='' command=)" +
         name + R"( each
  for each in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case "$command $each" in
      )" +
         command_names(root, name) + R"() command="$command $each" ;;
    esac
  done
  case "$command" in
)" + completion_arms(root, name) +
         R"(  esac
  COMPREPLY=()
  if [ -n "$values" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
  elif [ "$command" = )" +
         name + R"( ] || [[ "$word" == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  fi
}
complete -o default -F _)" +
         name + " " + name + "\n";
}

std::string manual_page(const CLI::App& root, const std::string& version, const std::string& date) {
  const std::string& name = root.get_name();
  std::string description = root.get_description();
  std::ranges::replace(description, '\n', ' ');
  std::string out = ".TH " + capitals(name) + " 1 " + date + " \"" + name + " " + version +
                    "\" \"User Commands\"\n.SH NAME\n" + name +
                    " \\- classify pictures with early exits across device, edge and cloud\n"
                    ".SH SYNOPSIS\n";
  out += synopses(root, name).substr(std::string(".br\n").size());
  out += ".SH DESCRIPTION\n" + escaped(description) + "\n.SH OPTIONS\n";
  for (const CLI::Option* const option : shown_options(root)) out += item(*option);
  out += ".SH COMMANDS\n";
  for (const CLI::App* const each : shown_commands(root)) out += command_page(*each, name);
  const std::map<std::string, std::string> sections = {{"Examples", "EXAMPLES"},
                                                       {"Environment", "ENVIRONMENT"},
                                                       {"Files", "FILES"},
                                                       {"Exit codes", "EXIT STATUS"}};
  return tidy(out + Footer(root.get_footer()).page(".SH", sections));
}

}  // namespace offramp::cli
