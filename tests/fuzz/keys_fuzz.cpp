// A list of keys and files of keys with any content are read or refused with an Error of one line,
// which never repeats what may be a key. The files are in memory.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>

#include "net/allow_list.h"
#include "net/keys.h"
#include "net/next_keys.h"

using namespace offramp;

namespace {

void require(bool good) {
  if (!good) std::abort();
}

template <class Read>
void read_or_refuse(const std::string& text, Read read) {
  try {
    read();
  } catch (const Error& error) {
    const std::string_view said = error.what();
    require(error.kind() == kBadKeys && said.find('\n') == std::string_view::npos);
    std::istringstream words(text);
    for (std::string word; words >> word;)
      require(word.size() < 20 || said.find(word) == std::string_view::npos);
  }
}

// A file without a disk, that belongs to this user alone.
class MemoryFile {
 public:
  MemoryFile() : number_(memfd_create("key", MFD_CLOEXEC)) {
    require(number_ >= 0 && fchmod(number_, 0600) == 0);
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(number_); }
  void fill(std::string_view text) const {
    require(ftruncate(number_, 0) == 0);
    require(pwrite(number_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }

 private:
  int number_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 4 != 0) {
    read_or_refuse(text, [&] {
      const AllowList list = AllowList::parse(text, "fuzz");
      require(list.size() <= text.size() / kKeyCharacters);
    });
    const auto key = parse_public_key(text);
    if (const auto* good = std::get_if<PublicKey>(&key)) require(good->text() == text);
    return 0;
  }
  static const MemoryFile file;
  file.fill(text);
  read_or_refuse(text, [] { static_cast<void>(read_key_pair(file.path())); });
  read_or_refuse(text, [] { static_cast<void>(NextKeys::read(file.path())); });
  return 0;
}
