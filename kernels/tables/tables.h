// The tables that the files of this folder define; kernels/dispatch.cpp chooses among them.
#pragma once

namespace offramp {

struct KernelTable;

extern const KernelTable kScalarKernels;
extern const KernelTable kSse2Kernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kNeonKernels;

}  // namespace offramp
