// The first tier: runs stage 0 on each picture and hands the undecided ones on, many at a time.
// Every picture gets exactly one outcome within its deadline, whatever happens behind the device.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cascade.h"
#include "net/audit.h"
#include "net/cut_choice.h"
#include "net/log.h"
#include "net/next_nodes.h"
#include "net/policy.h"
#include "net/replica.h"
#include "net/tensor_codec.h"

namespace offramp {

struct DeviceOptions {
  std::chrono::milliseconds deadline{1000};  ///< for each picture, from when it is ready
  /// How long an unconnected next tier is waited for when one is needed for the first time; then
  /// pictures that need it are answered at once. So the order in which tiers are started does not
  /// matter.
  std::chrono::milliseconds connect_grace{500};
  int window = 8;  ///< pictures away at once
  Policy policy = Policy::kBalanced;
  /// From the beginning of one picture to that of the next, at least, as a camera takes them.
  std::chrono::microseconds every{0};
  /// Since the first picture; then none is begun any more. None: all pictures are.
  std::optional<std::chrono::microseconds> duration{};
  TensorFormat format{};  ///< of what is handed on
  Cut cut = Cut::kTensor;
  std::optional<Preprocess> pictures{};  ///< the model's; wanted when `cut` is not kTensor
  /// Share of the pictures that the first exit is sure of, 0..1, which are handed on all the same
  /// once they have their outcome, where the next tier has room to spare: Device::audits().
  double audit = 0.0;
};

struct Outcome {
  Decision decision;                ///< decision.exit says which exit answered
  Tier tier = Tier::kDevice;        ///< who answered
  Reason degraded = Reason::kNone;  ///< kNone: the answer of the whole cascade
  /// False with kStrict alone: there is no answer, `decision` is empty and `degraded` says why.
  bool answered = true;
  /// With kLocalOnly: the exit was not sure, and nobody else was to be asked.
  bool local = false;
  std::vector<float> probabilities{};  ///< [classes]
  /// The device first, then each tier the answer came from; sent_bytes and compute_us are in here.
  std::vector<Hop> hops{};
  bool sent_picture = false;   ///< and not the tensor
  std::uint64_t wire_us = 0;   ///< on all links: waiting less what the tiers account for
  std::uint64_t total_us = 0;  ///< from when the picture was ready

  std::uint64_t bytes_sent() const;  ///< on all links
};

/// Pictures that come by and by. next() is called by the thread that serves.
class Feed {
 public:
  virtual ~Feed() = default;

  enum class Next { kPicture, kNothingYet, kEnd };
  /// With kPicture: writes it to `input`, float[height, width, channels], the number that its
  /// outcome is to have to `index`, and since when its deadline runs to `ready`.
  virtual Next next(std::span<float> input, std::size_t& index, Clock::time_point& ready) = 0;
  /// What next() has not given yet: how many, and since when the deadline of the first runs.
  struct Backlog {
    std::size_t pictures = 0;
    Clock::time_point since{};
  };
  virtual Backlog backlog() const = 0;
  /// Readable after kNothingYet once there may be something.
  virtual int readable_fd() const = 0;
};

class Device {
 public:
  /// Writes picture `index`, float[height, width, channels], to `input`. False: there is no such
  /// picture, it gets no outcome.
  using Source = std::function<bool(std::size_t index, std::span<float> input)>;
  /// Gets each picture's outcome when it is known, in no particular order.
  using Sink = std::function<void(std::size_t index, const Outcome& outcome)>;

  /// `stages` are all of the model's and outlive the device. `next` may be empty. Throws what
  /// dialling its nodes and check_independent() do.
  Device(std::span<const Stage> stages, const ModelId& model, const DeviceOptions& options,
         NextNodes next, Log log);
  ~Device();

  /// Classifies pictures 0..count-1, or those of them that `duration` has time for. Calls `source`
  /// and `sink` from the calling thread. Throws Error{kBadModel} when all nodes of the next
  /// tier run another model, naming both; and what `source` throws. After a throw, pictures without
  /// an outcome have none.
  void run(std::size_t count, const Source& source, const Sink& sink);

  /// Classifies what `feed` has until it ends, and returns when all of it has its outcome. For
  /// pictures that come by and by, from other threads; otherwise as run().
  void serve(Feed& feed, const Sink& sink);

  /// Answers of the next tier that came too late, or twice, and were dropped.
  std::uint64_t late_answers() const;
  /// What the later tiers have said to pictures that the device was sure of.
  AuditCounts audits() const;
  /// How the links to the next tier's nodes stand. From the thread that runs.
  std::vector<LinkStatus> links() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp
