// Plain C++: runs everywhere, and shows what a vector buys.
#include "kernels/make_table.h"
#include "kernels/tables/tables.h"

namespace offramp {

// 2 x 4 sums fit the registers of any machine.
constinit const KernelTable kScalarKernels = make_table<Lane, 4, 2>("scalar");

}  // namespace offramp
