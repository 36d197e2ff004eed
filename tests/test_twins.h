// Comparing a plan with its slow twin, the interpreter.
#pragma once

#include <span>
#include <vector>

#include "engine/interpreter.h"
#include "engine/plan.h"

namespace offramp::test {

/// Every instruction set of this machine with every algorithm.
std::vector<PlanOptions> all_options(int max_batch);

/// How far each value may be off in float32. `growth` is the factor by which an algorithm's own
/// rounding exceeds the direct sum's.
std::vector<float> error_bounds(const Graph& graph, const Values& values, float growth);

/// That factor, on random data.
float error_growth(ConvAlgorithm algorithm);

/// Fails the test at the first value that is off by more.
void check_close(std::span<const float> found, std::span<const float> wanted, float tolerance);

/// A value of the interpreter in the plans' layout.
std::vector<float> channels_last(const Shape& shape, const std::vector<float>& value);

}  // namespace offramp::test
