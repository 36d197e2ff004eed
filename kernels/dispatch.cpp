// Which tables this machine can run.
#include <array>

#include "kernels/kernels.h"
#include "kernels/tables/tables.h"

namespace offramp {
namespace {

struct Available {
  std::array<const KernelTable*, 4> tables{};
  std::size_t count = 0;

  Available() {
    add(kScalarKernels);
#if defined(__x86_64__)
    add(kSse2Kernels);
    // The compiler's checks include the operating system's support for the wide registers.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(kAvx2Kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      add(kAvx512Kernels);
    }
#elif defined(__aarch64__)
    add(kNeonKernels);
#endif
  }

  void add(const KernelTable& table) { tables[count++] = &table; }
};

}  // namespace

std::span<const KernelTable* const> available_kernels() {
  static const Available available;
  return {available.tables.data(), available.count};
}

const KernelTable* find_kernels(std::string_view name) {
  for (const KernelTable* table : available_kernels()) {
    if (name == table->name) return table;
  }
  return nullptr;
}

const KernelTable& best_kernels() { return *available_kernels().back(); }

}  // namespace offramp
