// Models of a few layers that take their time.
#pragma once

#include "tests/test_files.h"

namespace offramp::testing {

/// Two exits: almost no work before the first, side^2 * kernel^2 * 3 * 16 multiplications after it.
/// A picture of one colour makes a tensor that --codec u8 --lz4 packs into almost nothing, which
/// ThreadSanitizer gets through quickly: it has much to say to itself of each byte from ZeroMQ.
TestModel lopsided_model(int side, int kernel);

}  // namespace offramp::testing
