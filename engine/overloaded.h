// One visitor made of several lambdas, for std::visit over the closed sets of the engine.
#pragma once

namespace offramp {

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace offramp
