// The speed that no kernel of a table can exceed on this machine.
#pragma once

namespace offramp {

struct KernelTable;

/// Multiply-accumulates that one core does in a second when nothing but registers limits it; two
/// floating-point operations each. Measures for 30 ms.
double measure_peak_macs(const KernelTable& kernels);

}  // namespace offramp
