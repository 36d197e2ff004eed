// A share of the load on a node: some connections, the requests that go over them, and one thread
// for all of it. Each connection is a link as a device has it.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "net/channel.h"
#include "net/poller.h"
#include "net/zmq_channel.h"
#include "tools/load_samples.h"

namespace offramp::cli {

enum class Arrivals { kPoisson, kUniform };

struct LoadSetup {
  std::string next;  ///< "tcp://host:port"
  LinkIdentity identity;
  std::vector<LinkKeys> keys;  ///< taken in turn; none: plaintext
  int connections = 1;
  int threads = 1;
  int window = 8;  ///< requests of one connection that are away at once, if the node allows it
  Clock::duration deadline = std::chrono::seconds(1);
  Arrivals arrivals = Arrivals::kPoisson;
  std::uint64_t seed = 1;
};

/// One measurement. Open loop: `rate` requests a second whatever becomes of them. Closed loop,
/// where that is 0: `concurrency` requests are away at any time.
struct LoadPhase {
  double rate = 0.0;
  int concurrency = 0;
  Clock::duration warmup{}, duration{};
};

enum class LoadEnd : std::uint8_t {
  kLost,      ///< the connection broke, or no answer came
  kOk,        ///< the answer of the whole cascade
  kDegraded,  ///< `reason` says why
  kFault,     ///< ERROR, of `code`
  kUnsent,    ///< `reason`: no connection was up, none had room, or the deadline had passed
};
const char* load_end_name(LoadEnd end);  ///< "lost", "ok", "degraded", "error", "unsent"

/// What became of a request.
struct LoadRecord {
  /// When it was to be sent, since the phase began, warm-up included. All times count from here, so
  /// that a generator that is held up by the node does not hide it (coordinated omission).
  Clock::duration intended{};
  Clock::duration sent{};     ///< from then to when it was; 0 when it was not
  Clock::duration latency{};  ///< from then to the answer; 0 without one
  std::uint32_t connection = 0;
  std::uint32_t sample = 0;
  LoadEnd end = LoadEnd::kLost;
  Reason reason = Reason::kNone;
  FaultCode code{};
  int exit = -1;  ///< that answered
  bool answered = false;
  bool right = true;
};

/// Used by one thread at a time.
class LoadDriver {
 public:
  /// The `index`-th of setup.threads; `samples` and `setup` outlive it.
  LoadDriver(const LoadSetup& setup, std::span<const LoadSample> samples, int index);

  /// Connects, a few at a time, so that a node is not flooded with handshakes. Throws
  /// Error{kUnavailable} when not all are up at `until`, Error{kBadModel} when the node runs
  /// another model, Error{kSystem}.
  void connect(Clock::time_point until);

  struct Result {
    std::vector<LoadRecord> records;  ///< in order of `intended`
    std::uint64_t duplicated = 0;     ///< answers beyond a request's first, of earlier ones too
    std::uint64_t broken = 0;         ///< connections that were lost
  };
  /// Sends until the phase is over, then waits for answers for as long as any may come in time, and
  /// two seconds more. Throws Error{kBadModel} as above.
  Result run(const LoadPhase& phase, Clock::time_point start);

 private:
  struct Link {
    std::uint32_t number = 0;  ///< among all connections
    std::unique_ptr<Channel> channel;
    std::vector<std::size_t> away;  ///< places in the records
  };

  void open_link();
  bool has_room(const Link& link) const;
  Link* link_with_room(std::size_t tries);
  void send_open(double rate, Clock::time_point end);
  void send_closed(int most_away, Clock::time_point end);
  void send(Clock::time_point intended, Link* link);
  Reason submit(LoadRecord& record, Clock::time_point intended, Link* link);
  Clock::time_point next_arrival(double rate);

  void turn(Clock::time_point until);
  void service(Link& link, Clock::time_point now);
  void handle(Link& link, LinkEvent event, Clock::time_point now);
  LoadRecord* answered(Link& link, const RequestId& request, Clock::time_point now);
  bool all_up() const;

  const LoadSetup& setup_;
  std::span<const LoadSample> samples_;
  int index_;
  std::size_t share_;  ///< connections
  std::mt19937_64 random_;
  std::shared_ptr<ZmqContext> context_;
  Poller poller_;
  std::vector<Link> links_;
  std::vector<Link*> touched_;      ///< sent on, and not read since
  std::vector<std::size_t> ready_;  ///< places in links_
  std::string why_not_;             ///< the last thing that kept a connection from being up

  std::uint64_t session_;
  std::vector<bool> answered_;  ///< of all requests ever, by the number in their ids
  std::uint64_t first_id_ = 0;  ///< number of the measurement's first request
  Clock::time_point start_{};
  Clock::time_point next_send_{};
  Clock::time_point next_service_{};  ///< of links that nothing comes from
  std::size_t away_ = 0;
  std::size_t next_sample_ = 0;
  Result result_;
};

}  // namespace offramp::cli
