// The pictures named on the command line, and those that come with the program.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/picture.h"

namespace offramp::cli {

/// Reads a file, or standard input for "-". Throws Error{kMissingInput} or Error{kBadData}.
Picture open_picture(const std::string& name);

/// The sample pictures that ship with the program, in order of name. Throws Error{kMissingInput}.
std::vector<std::filesystem::path> sample_pictures();

/// A column wide enough for all of `names`, within reason.
std::size_t name_width(const std::vector<std::string>& names);

/// The longest of the model's class names.
std::size_t class_width(const Model& model);

}  // namespace offramp::cli
