// Choosing the convolutions by measuring them on this machine, in place of the cost model.
#pragma once

#include "engine/model.h"
#include "engine/plan.h"

namespace offramp {

/// Runs the network (random input, every exit computed) with each algorithm that a user may ask
/// for, in turns, and takes for every convolution the one that was fastest where it stands: with
/// the caches as the layers before it leave them. `options` says what else to compile with. Takes
/// some seconds and the memory of all these plans. Answers may differ in their last bits from those
/// of other choices. Throws what Plan::compile() throws.
ConvPaths tune(const Model& model, const PlanOptions& options);

}  // namespace offramp
