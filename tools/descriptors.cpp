#include "tools/descriptors.h"

#include <sys/resource.h>

#include <string>

#include "engine/error.h"

namespace offramp::cli {
namespace {

// ZeroMQ aborts with fewer than 10. A node without next ones takes 16, and some more for each of
// those and for each connection.
constexpr rlim_t kFewest = 32;

}  // namespace

void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  if (limit.rlim_max < kFewest)
    throw Error(ErrorKind::kSystem, "open files: wanted a limit of at least " +
                                        std::to_string(kFewest) + " (ulimit -n), found " +
                                        std::to_string(limit.rlim_max));
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace offramp::cli
