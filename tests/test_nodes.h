// For tests of nodes: a small three-stage network with known answers, and a client without manners.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "net/channel.h"
#include "net/device.h"
#include "net/node.h"
#include "net/socket.h"
#include "net/tensor_codec.h"
#include "tests/test_graphs.h"

namespace offramp::test {

/// A network of 3x8x8 pictures, 7 classes and 3 exits, and pictures of which about a third leave at
/// each exit when `thresholds` is kMixed.
class SmallCascade {
 public:
  enum class Thresholds { kNone, kMixed, kAll };  ///< everything goes on / some / nothing does
  /// `batch` is what the plans take.
  explicit SmallCascade(Thresholds thresholds, int pictures = 60, int batch = 1);

  std::span<const Stage> stages() const { return stages_; }
  const ModelId& id() const { return model_.id; }
  std::size_t size() const { return expected_.size(); }
  View picture(std::size_t index) const;
  /// What run_cascade says.
  const std::vector<Decision>& expected() const { return expected_; }
  /// What the stage alone says, run after those before it.
  Decision at_exit(std::size_t index, int exit) const;
  Device::Source source() const;

 private:
  std::vector<Stage> with_thresholds(float first, float second) const;

  int batch_;
  GraphBuilder builder_;
  Model model_;
  std::vector<float> pixels_;
  std::vector<Stage> stages_, undecided_;
  std::vector<Decision> expected_;
};

/// Runs all pictures (or `count`) and checks that each gets exactly one outcome.
std::vector<Outcome> run_all(Device& device, const SmallCascade& cascade, std::size_t count = 0);

/// Outcomes with this reason.
std::size_t count_reason(const std::vector<Outcome>& outcomes, Reason reason);

/// What a client of an edge says first.
Hello hello_of(const SmallCascade& cascade);
/// Request number `counter` of session 1, with a tensor that is `value` throughout.
Handoff handoff_of(const SmallCascade& cascade, std::uint64_t counter, float value = 1.0f,
                   const TensorFormat& format = {});

/// What a node's worker does with its first request until it is let go.
struct HeldWork {
  std::atomic<bool> hold{true}, taken{false};
  void wait();
};

/// A DEALER that sends whatever it is given.
class RawClient {
 public:
  explicit RawClient(const std::string& endpoint);
  void send(std::initializer_list<std::span<const std::uint8_t>> parts);
  void send(Message message);
  /// The next message, or nullopt after `patience`.
  std::optional<Message> receive(std::chrono::milliseconds patience = std::chrono::seconds(5));
  /// Receives until a message of type T comes.
  template <class T>
  std::optional<T> wait_for() {
    while (std::optional<Message> message = receive())
      if (T* wanted = std::get_if<T>(&*message)) return *wanted;
    return {};
  }

 private:
  ZmqContext context_;
  ZmqSocket socket_;
};

}  // namespace offramp::test
