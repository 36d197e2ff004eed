// What the help says, for man and for bash.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace offramp::cli {

/// A page for section 1, in man(7): every command, positional and option of `root`, and its
/// footers. A footer's "Title:" above indented lines is a heading; lines of two columns are a list,
/// other indented ones stand as they are. `date` is for the page's foot: "2026-05-31".
std::string manual_page(const CLI::App& root, const std::string& version, const std::string& date);

/// A script that completes commands, their options, and the values of those with few.
std::string bash_completion(const CLI::App& root);

}  // namespace offramp::cli
