// One picture, and the thread that waits for it: what both faces of the library do.
#pragma once

#include <future>
#include <memory>

#include "net/client.h"

namespace offramp {

/// The outcome of what `submit` submits with the callback that it is given. A callback's outcome is
/// nobody else's: no wait_any() of another thread can take it.
template <class Submit>
ClientOutcome outcome_of(Submit submit) {
  const auto promise = std::make_shared<std::promise<ClientOutcome>>();
  std::future<ClientOutcome> outcome = promise->get_future();
  submit([promise](const ClientOutcome& known) { promise->set_value(known); });
  return outcome.get();
}

}  // namespace offramp
