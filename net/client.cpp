#include "net/client.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "engine/picture.h"
#include "engine/rule_table.h"
#include "net/client_outcome.h"
#include "net/device.h"
#include "net/next_keys.h"
#include "net/node.h"
#include "net/socket.h"
#include "net/zmq_channel.h"

namespace offramp {
namespace {

// Other errors are the caller's or the system's, and have no line of ours.
template <class Call>
auto translated(Call&& call) {
  try {
    return call();
  } catch (const Error& error) {
    throw ClientError(static_cast<ClientCode>(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    throw ClientError(ClientCode::kSystem, "client: wanted memory, found none");
  } catch (const std::system_error& error) {
    throw ClientError(ClientCode::kSystem, std::string("client: ") + error.what());
  }
}

void require(bool good, const std::string& wanted, const std::string& found) {
  if (!good) throw Error(ErrorKind::kUsage, "client: wanted " + wanted + ", found " + found);
}

// A clock's numbers end somewhere.
constexpr std::chrono::hours kLongestWait{24};

const ClientOptions& checked(const ClientOptions& options) {
  using std::to_string;
  require(options.deadline.count() >= 1 && options.deadline <= kLongestWait,
          "a deadline of 1 ms to 24 hours", to_string(options.deadline.count()) + " ms");
  require(options.connect_grace.count() >= 0 && options.connect_grace <= kLongestWait,
          "a grace of 0 ms to 24 hours", to_string(options.connect_grace.count()) + " ms");
  require(options.window >= 1 && options.window <= 1024, "a window of 1 to 1024",
          to_string(options.window));
  require(options.queue >= 1 && options.queue <= 65536, "a queue of 1 to 65536",
          to_string(options.queue));
  require(options.threads >= 1 && options.threads <= 1024, "1 to 1024 threads",
          to_string(options.threads));
  return options;
}

DType dtype_of(const std::string& name) {
  if (name.empty()) return DType::kF32;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kU8, DType::kU8PerChannel})
    if (name == dtype_name(dtype)) return dtype;
  throw Error(ErrorKind::kUsage, "client: wanted dtype f32, f16, u8 or u8c, found '" + name + "'");
}

// The folder of net/WIRE.md, "Security".
std::optional<LinkKeys> keys_of(const ClientOptions& options, const std::string& endpoint) {
  if (is_ipc(endpoint) || options.insecure) return {};
  require(!options.keys.empty(), "keys, or insecure, for " + endpoint, "neither");
  const std::filesystem::path folder = options.keys;
  return LinkKeys{.own = read_key_pair(folder / "self.key"),
                  .server = NextKeys::read(folder / "next.pub").of(endpoint)};
}

PlanOptions plan_of(const ClientOptions& options) {
  PlanOptions plan = plan_options_from_environment();
  plan.threads = options.threads;
  return plan;
}

std::vector<Stage> stages_of(const ClientOptions& options, const Model& model) {
  if (options.target.empty()) return make_stages(model, options.thresholds, plan_of(options));
  require(options.thresholds.empty(), "thresholds or a target", "both");
  const Target& target = find_target(model.targets, options.target, model.name, "client: target");
  return compile_stages(model, target.rules, plan_of(options));
}

DeviceOptions device_options(const ClientOptions& options) {
  return {.deadline = options.deadline,
          .connect_grace = options.connect_grace,
          .window = options.window,
          .format = {.dtype = dtype_of(options.dtype),
                     .codec = options.lz4 ? Codec::kLz4 : Codec::kRaw},
          .audit = options.audit};
}

NextNodes nodes_of(const ClientOptions& options, std::span<const Stage> stages,
                   const ModelId& model) {
  if (options.next.empty()) return {};
  require(stages.size() >= 2, "a model with two exits or more to share with a next node", "one");
  std::vector<ZmqEndpoint> nodes;
  for (std::string endpoint : options.next) {
    if (endpoint.find("://") == std::string::npos) endpoint.insert(0, "tcp://");
    nodes.push_back({.endpoint = endpoint, .keys = keys_of(options, endpoint)});
  }
  ZmqChannelOptions channel;
  channel.window = std::max(channel.window, options.window);
  return zmq_nodes(nodes, link_identity(stages, model, 1), channel);
}

std::chrono::milliseconds bounded(std::chrono::milliseconds patience) {
  return std::min<std::chrono::milliseconds>(patience, kLongestWait);
}

Log log_of(const ClientOptions& options) {
  if (!options.log) return {};
  return [log = options.log](LogLevel level, const std::string& line) {
    if (level < LogLevel::kInfo) return;
    try {
      log(line);
    } catch (...) {  // there is nobody left to tell
    }
  };
}

}  // namespace

ClientError::ClientError(ClientCode code, const std::string& message)
    : std::runtime_error(message), code_(code) {}
ClientError::~ClientError() = default;

// A thread of its own runs the device. Under the mutex: what it is to do and what is done.
struct Client::Impl final : public Feed {
  explicit Impl(const ClientOptions& options)
      : capacity(static_cast<std::size_t>(checked(options).queue)),
        model(load_model(options.model)),
        stages(stages_of(options, model)),
        log(log_of(options)),
        device(stages, model.id, device_options(options), nodes_of(options, stages, model.id), log),
        thread([this] { serve(); }) {}

  ~Impl() override {
    {
      const std::lock_guard lock(mutex);
      closed = true;
    }
    wakeup.signal();
    thread.join();
  }

  // ---- the caller's threads ----

  // Before a picture is decoded for nothing.
  void require_room() {
    const std::lock_guard lock(mutex);
    require_room_locked();
  }

  ClientTicket submit(const Picture& picture, Callback done) {
    Waiting waiting{.ticket = 0,
                    .submitted = Clock::now(),
                    .input = Buffer(stages[0].plan().input_shape().elements())};
    preprocess(picture, model.preprocess, waiting.input.data());
    const std::lock_guard lock(mutex);
    require_room_locked();
    const ClientTicket ticket = waiting.ticket = ++last_ticket;
    under_way.emplace(ticket, std::move(done));
    queue.push_back(std::move(waiting));
    wakeup.signal();
    return ticket;
  }

  void require_room_locked() const {
    if (under_way.size() + known.size() >= capacity)
      throw ClientError(ClientCode::kBusy, "client: wanted room for one more picture, found " +
                                               std::to_string(capacity) +
                                               " under way or not yet asked for");
  }

  std::optional<ClientOutcome> wait(ClientTicket ticket, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex);
    const bool in_time = finished.wait_for(lock, patience, [&] { return !is_under_way(ticket); });
    if (!in_time) return {};
    const auto found = known.find(ticket);
    require(found != known.end(), "a ticket whose outcome was not asked for yet",
            std::to_string(ticket));
    return take(found);
  }

  std::optional<ClientOutcome> wait_any(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex);
    finished.wait_for(lock, patience, [this] { return !known.empty() || nobody_to_come(); });
    if (known.empty()) return {};
    return take(known.begin());
  }

  // ---- the device's thread ----

  void serve() {
    while (true) {
      std::string message;
      ClientCode code = ClientCode::kSystem;
      try {
        device.serve(*this, [this](std::size_t ticket, const Outcome& outcome) {
          give({.ticket = ticket, .result = described(outcome)});
        });
        return;
      } catch (const Error& error) {
        code = static_cast<ClientCode>(error.kind());
        message = error.what();
      } catch (const std::exception& error) {
        message = std::string("client: ") + error.what();
      }
      // What the device had taken has no outcome any more; the queue goes on.
      for (const ClientTicket ticket : std::exchange(taken, {}))
        give({.ticket = ticket, .code = code, .message = message});
    }
  }

  Next next(std::span<float> input, std::size_t& index, Clock::time_point& ready) override {
    wakeup.clear();
    const std::lock_guard lock(mutex);
    if (queue.empty()) return closed ? Next::kEnd : Next::kNothingYet;
    const Waiting waiting = std::move(queue.front());
    queue.pop_front();
    std::copy_n(waiting.input.data(), input.size(), input.begin());
    index = waiting.ticket;
    ready = waiting.submitted;
    taken.insert(waiting.ticket);
    return Next::kPicture;
  }

  Backlog backlog() const override {
    const std::lock_guard lock(mutex);
    if (queue.empty()) return {};
    return {.pictures = queue.size(), .since = queue.front().submitted};
  }

  int readable_fd() const override { return wakeup.fd(); }

  void give(ClientOutcome outcome) {
    taken.erase(outcome.ticket);
    Callback done;
    {
      const std::lock_guard lock(mutex);
      const auto entry = under_way.find(outcome.ticket);
      done = std::move(entry->second);
      under_way.erase(entry);
      if (!done) {
        known.emplace(outcome.ticket, std::move(outcome));
        finished.notify_all();
        return;
      }
    }
    try {
      done(outcome);
    } catch (const std::exception& error) {
      tell_callback_failed(outcome.ticket, error.what());
    } catch (...) {
      tell_callback_failed(outcome.ticket, "no std::exception");
    }
  }

  void tell_callback_failed(ClientTicket ticket, const std::string& what) const {
    if (log)
      log(LogLevel::kError,
          "the callback of ticket " + std::to_string(ticket) + " has thrown: " + what);
  }

  ClientResult described(const Outcome& outcome) const {
    const Decision& decision = outcome.decision;
    ClientResult result{
        .label = decision.label,
        .class_name = model.classes.at(static_cast<std::size_t>(decision.label)),
        .probability = decision.probability,
        .entropy = decision.entropy,
        .exit = decision.exit,
        .exit_name = model.graph.exits.at(static_cast<std::size_t>(decision.exit)).name,
        .tier = tier_name(outcome.tier),
        .status = reason_name(outcome.degraded),
        .degraded = outcome.degraded != Reason::kNone,
        .probabilities = outcome.probabilities,
        .sent_bytes = outcome.bytes_sent(),
        .wire_us = outcome.wire_us,
        .total_us = outcome.total_us};
    for (const Hop& hop : outcome.hops)
      result.hops.push_back(
          {tier_name(hop.tier), hop.queue_us, hop.compute_us, hop.wait_us, hop.sent_bytes});
    return result;
  }

  // ---- with the mutex held ----

  using Known = std::map<ClientTicket, ClientOutcome>;

  // Without a callback: those go elsewhere.
  bool is_under_way(ClientTicket ticket) const {
    const auto found = under_way.find(ticket);
    return found != under_way.end() && !found->second;
  }
  bool nobody_to_come() const {
    return std::ranges::all_of(under_way,
                               [](const auto& entry) { return static_cast<bool>(entry.second); });
  }
  std::optional<ClientOutcome> take(Known::iterator found) {
    std::optional<ClientOutcome> outcome = std::move(found->second);
    known.erase(found);
    return outcome;
  }

  struct Waiting {
    ClientTicket ticket = 0;
    Clock::time_point submitted;
    Buffer input;  ///< [height, width, channels]
  };

  std::size_t capacity;
  Model model;
  std::vector<Stage> stages;
  EventFd wakeup;
  mutable std::mutex mutex;
  std::condition_variable finished;
  std::deque<Waiting> queue;                     ///< not yet taken by the device
  std::map<ClientTicket, Callback> under_way{};  ///< all without an outcome
  Known known{};                                 ///< outcomes that nobody has asked for
  ClientTicket last_ticket = 0;
  bool closed = false;
  std::set<ClientTicket> taken{};  ///< by the device, of whose thread alone it is
  Log log;
  Device device;
  std::thread thread;  ///< last, as it uses all the others
};

Client::Client(const ClientOptions& options)
    : impl_(translated([&] { return std::make_unique<Impl>(options); })) {}

Client::~Client() = default;

ClientTicket Client::submit(std::span<const std::uint8_t> file, Callback done) {
  return translated([&] {
    impl_->require_room();
    return impl_->submit(decode_picture(file, "picture"), std::move(done));
  });
}

ClientTicket Client::submit_pixels(std::span<const std::uint8_t> rgb, int width, int height,
                                   Callback done) {
  return translated([&] {
    const bool positive = width > 0 && width <= kMaxPictureSide && height > 0 &&
                          height <= kMaxPictureSide &&
                          std::int64_t{width} * height <= kMaxPicturePixels;
    const std::string sides = std::to_string(width) + "x" + std::to_string(height);
    require(positive, "sides of 1 to 16384 and 16 megapixels at most", sides);
    const auto bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
    require(rgb.size() == bytes, std::to_string(bytes) + " bytes for " + sides,
            std::to_string(rgb.size()));
    return impl_->submit({width, height, {rgb.begin(), rgb.end()}}, std::move(done));
  });
}

std::optional<ClientOutcome> Client::wait(ClientTicket ticket, std::chrono::milliseconds patience) {
  return translated([&] { return impl_->wait(ticket, bounded(patience)); });
}

std::optional<ClientOutcome> Client::wait_any(std::chrono::milliseconds patience) {
  return translated([&] { return impl_->wait_any(bounded(patience)); });
}

namespace {

template <class Submit>
ClientResult result_of(Submit submit) {
  ClientOutcome outcome = outcome_of(std::move(submit));
  if (outcome.code != ClientCode::kOk) throw ClientError(outcome.code, outcome.message);
  return std::move(outcome.result);
}

}  // namespace

ClientResult Client::classify(std::span<const std::uint8_t> file) {
  return result_of([&](Callback done) { submit(file, std::move(done)); });
}

ClientResult Client::classify_pixels(std::span<const std::uint8_t> rgb, int width, int height) {
  return result_of([&](Callback done) { submit_pixels(rgb, width, height, std::move(done)); });
}

const std::vector<std::string>& Client::classes() const { return impl_->model.classes; }

}  // namespace offramp
