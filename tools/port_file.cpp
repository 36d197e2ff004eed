#include "tools/port_file.h"

#include <unistd.h>

#include <system_error>
#include <utility>

#include "engine/error.h"

namespace offramp::cli {

PortFile::PortFile(std::filesystem::path path)
    : path_(std::move(path)),
      draft_(path_.string() + "." + std::to_string(getpid())),
      file_(draft_) {}

PortFile::~PortFile() {
  std::error_code already_renamed;
  std::filesystem::remove(draft_, already_renamed);
}

void PortFile::publish(const std::string& address) {
  file_.write(address + "\n");
  file_.close();
  std::error_code error;
  std::filesystem::rename(draft_, path_, error);
  if (error) {
    throw Error(ErrorKind::kCannotWrite,
                path_.string() + ": wanted a file to write to, found: " + error.message());
  }
}

}  // namespace offramp::cli
