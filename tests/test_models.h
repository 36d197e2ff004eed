// Models of a few layers that take their time.
#pragma once

#include "tests/test_files.h"

namespace offramp::testing {

/// Two exits: almost no work before the first, side^2 * kernel^2 * 3 * 16 multiplications after it.
TestModel lopsided_model(int side, int kernel);

}  // namespace offramp::testing
