#include "engine/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace offramp {
namespace {

// Closes a descriptor at the end of its scope.
struct Descriptor {
  explicit Descriptor(int descriptor) : fd(descriptor) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
};

}  // namespace

std::vector<std::uint8_t> read_file(const std::filesystem::path& path, std::size_t most,
                                    ErrorKind too_large) {
  const auto refuse = [&](const std::string& found) {
    return Error(ErrorKind::kMissingInput, path.string() + ": wanted a file, found " + found);
  };
  // O_NONBLOCK: opening a pipe without a writer must not wait for one.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) {
    const int why = errno;
    throw refuse(why == ENOENT ? std::string("none") : std::string(std::strerror(why)));
  }
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) throw refuse(std::strerror(errno));
  if (S_ISDIR(status.st_mode)) throw refuse("a folder");
  if (!S_ISREG(status.st_mode)) throw refuse("something that is not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size > most) {
    throw Error(too_large, path.string() + ": wanted at most " + std::to_string(most) +
                               " bytes, found " + std::to_string(size));
  }
  std::vector<std::uint8_t> bytes(size);
  std::size_t got = 0;
  while (got < size) {
    const ssize_t count = ::read(file.fd, bytes.data() + got, size - got);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw refuse(std::strerror(errno));
    if (count == 0) break;  // it has become shorter
    got += static_cast<std::size_t>(count);
  }
  bytes.resize(got);
  return bytes;
}

}  // namespace offramp
