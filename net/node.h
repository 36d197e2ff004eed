// One tier as a server: takes undecided samples, runs its stages, answers or hands on.
//
//   peers <--> Fronts <--> loop and Service <--> FairQueue <--> Workers, which run the stages
//                                  |
//                                  +-- NextTier <--> Upstream <--> the next tier's nodes
//
// The loop is one thread and owns all sockets; bounded queues lie between it and the workers. Every
// request that is accepted is answered exactly once within its budget. When the next tier is
// absent, lost or late, the answer is the node's own, marked with the reason.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "net/channel.h"
#include "net/gate.h"
#include "net/log.h"
#include "net/loopback.h"
#include "net/next_nodes.h"
#include "net/policy.h"
#include "net/telemetry.h"
#include "net/tensor_codec.h"

namespace offramp {

struct NodeOptions {
  Tier tier = Tier::kEdge;
  std::string listen{};  ///< "tcp://127.0.0.1:7001", "tcp://0.0.0.0:*"; empty: loopback only
  /// Encrypt TCP, and let in whom the list names. Without them everybody on this machine may
  /// connect in plaintext, and an address that others can reach is refused.
  std::optional<NodeKeys> keys{};
  std::vector<Loopback*> loopbacks{};  ///< further fronts, not owned
  int first_stage = 1;                 ///< index into all stages of the model
  int stage_count = 1;                 ///< consecutive stages that run here
  /// How pictures are made into the network's input. With it the node takes them too, as kPixels,
  /// and runs the stages before its own once more.
  std::optional<Preprocess> pictures{};
  TensorFormat format{};  ///< of what is handed on
  /// Share of the requests, 0..1, that are handed on though the last exit here be sure of them,
  /// once they are answered and where the next tier has room to spare: TelemetrySnapshot::audits.
  double audit = 0.0;
  Policy policy = Policy::kBalanced;
  int workers = 1;
  int queue_capacity = 256;  ///< requests that wait for a worker; beyond it ERROR(OVERLOADED)
  int window = 64;           ///< requests of one peer that may be here, when there is room
  /// How long a worker waits for more requests to compute together, at most as many as the plans of
  /// the stages take. 0: it takes what is there.
  std::chrono::microseconds batch_delay{0};
  /// How long stopping waits for answers that are missing. Then requests that the next tier has
  /// get this node's own answer, and those that a worker has get none.
  std::chrono::milliseconds drain{10000};
  /// Called by a worker for each request of a batch before their stages run: to pace a node or to
  /// hold it up in tests.
  std::function<void()> before_compute{};
};

class Node {
 public:
  /// Binds, starts the threads and serves. `stages` are all of the model's (make_stages) and
  /// outlive the node. `next` is empty for the last tier. Throws Error{kUnavailable} when the
  /// endpoint is in use, Error{kUsage} when it or another option makes no sense, Error{kSystem}.
  Node(std::span<const Stage> stages, const ModelId& model, const NodeOptions& options,
       NextNodes next, Log log);
  /// Stops. Waits for what the workers compute at this moment, even when that takes longer than
  /// `drain`: a thread cannot be ended from outside. Where counters().unanswered is not 0 after
  /// wait(), only the end of the process is sure to end them.
  ~Node();

  /// What was bound, with the real port; empty for loopback only.
  const std::string& endpoint() const;

  /// Asks for a clean end: DRAIN to the peers, no new work, everything accepted is answered.
  /// Returns at once. Safe in a signal handler, from any thread, any number of times.
  void request_stop() noexcept;

  /// Blocks until the node has ended after request_stop(), a second after `drain` at most. Then all
  /// answers have left and counters() are final. One thread may wait.
  void wait();
  void stop() {
    request_stop();
    wait();
  }

  /// Both from any thread, and without a wait for the node's own.
  NodeCounters counters() const;
  TelemetrySnapshot telemetry() const;

  /// Replaces the list of NodeOptions::keys, for connections that are open too. From any thread.
  void allow(AllowList allowed);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a node or device that runs stages up to `next_stage` - 1 says to the tier after it.
LinkIdentity link_identity(std::span<const Stage> stages, const ModelId& model, int next_stage);

}  // namespace offramp
