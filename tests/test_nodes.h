// For tests of nodes: a small three-stage network with known answers, nodes that run it, and peers
// without manners.
#pragma once

#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
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
#include "net/zmq_channel.h"
#include "tests/test_graphs.h"
#include "tests/test_wait.h"

namespace offramp::test {

inline constexpr const char* kAnyPort = "tcp://127.0.0.1:*";

/// Where every answer is to come, however busy the machine.
inline constexpr DeviceOptions kPatient{.deadline = std::chrono::milliseconds(20000),
                                        .connect_grace = std::chrono::milliseconds(20000)};

/// How late a busy test machine may wake a thread.
inline constexpr std::uint64_t kSlackUs = 80'000;

/// A network of 3x8x8 pictures, 7 classes and 3 exits, and pictures of which about a third leave at
/// each exit when `thresholds` is kMixed.
class SmallCascade {
 public:
  enum class Thresholds { kNone, kMixed, kAll };  ///< everything goes on / some / nothing does
  /// `batch` is what the plans take.
  explicit SmallCascade(Thresholds thresholds, int pictures = 60, int batch = 1);

  std::span<const Stage> stages() const { return stages_; }
  const ModelId& id() const { return model_.id; }
  /// What the tier before `stage` says to its node.
  LinkIdentity link(int stage = 1) const { return link_identity(stages_, id(), stage); }
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

/// Two stages with much to carry between them, so that encoding and decoding it takes its time.
struct LargeCascade {
  explicit LargeCascade(int side);

  GraphBuilder builder;
  Model model;
  std::vector<Stage> stages;
};

/// A link to the node of `stage` at `endpoint`.
std::unique_ptr<Channel> to(const SmallCascade& cascade, const std::string& endpoint, int stage = 1,
                            const ZmqChannelOptions& options = {});

/// An edge that runs all that follows the device.
NodeOptions whole_edge(const std::string& listen = kAnyPort);
/// One that runs its own stage, and a cloud that runs the last one.
NodeOptions edge_options();
NodeOptions cloud_options();

std::unique_ptr<Node> start(const SmallCascade& cascade, const NodeOptions& options,
                            NextNodes next = {}, Log log = {});

/// Lines of a log, from any thread.
class Ear {
 public:
  Log log();
  bool heard(const std::string& text) const { return count(text) > 0; }
  std::size_t count(const std::string& text) const;  ///< lines that hold it
  std::string all() const;
  /// Waits until a node has met the `count`th of its next tier.
  void await_next_tier(std::size_t count = 1) const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

/// An edge and a cloud on real sockets; the edge is connected once the constructor returns.
struct TwoNodes {
  explicit TwoNodes(const SmallCascade& cascade, const NodeOptions& edge_opts = edge_options(),
                    const NodeOptions& cloud_opts = cloud_options());

  Ear ear;  ///< for what the edge says
  std::unique_ptr<Node> cloud, edge;
};

/// Runs all pictures (or `count`) and checks that each gets exactly one outcome.
std::vector<Outcome> run_all(Device& device, const SmallCascade& cascade, std::size_t count = 0);

/// Runs pictures until `condition`, for 20 s at most; all outcomes.
std::vector<Outcome> run_until(Device& device, const SmallCascade& cascade,
                               const std::function<bool()>& condition);
/// Runs pictures until `count` links of the device are up, so that none is late for want of one.
void connect(Device& device, const SmallCascade& cascade, std::size_t count = 1);
std::size_t links_up(const Device& device);

/// Each picture has got the whole cascade's decision.
void check_whole(const std::vector<Outcome>& outcomes, const SmallCascade& cascade);

/// Outcomes with this reason.
std::size_t count_reason(const std::vector<Outcome>& outcomes, Reason reason);

/// What a client of an edge says first.
Hello hello_of(const SmallCascade& cascade);
/// Request number `counter` of session 1, with a tensor that is `value` throughout.
Handoff handoff_of(const SmallCascade& cascade, std::uint64_t counter, float value = 1.0f,
                   const TensorFormat& format = {});

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

/// Says HELLO and waits for WELCOME; its window.
std::uint16_t join(RawClient& client, const SmallCascade& cascade);

/// What a node answers to HELLO.
Welcome welcome_to(const Hello& hello, std::uint16_t window);

/// A node by hand: a ROUTER on a free port that does with each message what it is told.
class FakeNode {
 public:
  /// Who has sent a message.
  struct Caller {
    ZmqSocket& router;
    const Bytes& id;  ///< the first part of what is sent to it
    void reply(Message message) const;
  };
  /// `header` is the message's first frame. Called in the node's thread.
  using Handle =
      std::function<void(const Message& message, const Bytes& header, const Caller& caller)>;

  explicit FakeNode(Handle handle);

  const std::string& endpoint() const { return endpoint_; }

 private:
  ZmqContext context_;
  ZmqSocket router_;
  std::string endpoint_;
  std::jthread thread_;
};

/// Binds the socket to a free port of this machine.
std::string bound(ZmqSocket& socket);

}  // namespace offramp::test
