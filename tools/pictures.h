// The pictures named on the command line, and those that come with the program.
#pragma once

#include <string>
#include <vector>

#include "engine/picture.h"

namespace offramp::cli {

/// Reads a file, or standard input for "-". Throws Error{kMissingInput} or Error{kBadData}.
Picture open_picture(const std::string& name);

/// The sample pictures that ship with the program, in order of their names. Throws
/// Error{kMissingInput}.
std::vector<std::string> sample_pictures();

/// `names` with each folder among them replaced by the pictures in it, in order of their names.
/// Throws Error{kMissingInput} for a folder that has none or cannot be read.
std::vector<std::string> with_folders_opened(const std::vector<std::string>& names);

/// A column wide enough for all of `names`, within reason.
std::size_t name_width(const std::vector<std::string>& names);

/// The longest of the model's class names.
std::size_t class_width(const Model& model);

}  // namespace offramp::cli
