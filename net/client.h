// The device tier for other programs: open a model, name the next tier, classify pictures.
//
//   offramp::Client client({.model = "resnet20b.safetensors", .next = {"edge.local:5555"}, .keys =
//   "keys/device"}); const offramp::ClientResult result = client.classify(bytes_of_a_png);
//
// Installed as <offramp/client.h>, in libofframp_client; net/client_c.h is the same for C. Nothing
// else of the project is in it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#define OFFRAMP_CLIENT_API __attribute__((visibility("default")))

namespace offramp {

/// The numbers are those of `offramp`'s exit codes where it has them.
enum class ClientCode {
  kOk = 0,
  kUsage = 64,         ///< an option, a size or a ticket that makes no sense
  kBadData = 65,       ///< a picture that is none
  kMissingInput = 66,  ///< a file that is not there or may not be read
  kUnavailable = 69,   ///< the next tier speaks another version
  kSystem = 71,        ///< no memory, threads or sockets left
  kBusy = 75,          ///< as many pictures are under way as `queue` allows
  kBadModel = 78,      ///< a damaged model or key, or another model at the next tier
};

/// what() is one line: where, what was wanted and what was found.
class OFFRAMP_CLIENT_API ClientError : public std::runtime_error {
 public:
  ClientError(ClientCode code, const std::string& message);
  ~ClientError() override;
  ClientCode code() const { return code_; }

 private:
  ClientCode code_;
};

struct ClientOptions {
  std::string model;  ///< a .safetensors file
  /// The nodes of the next tier: "HOST:PORT", "tcp://HOST:PORT" or "ipc:///PATH"; none:
  /// the device answers alone.
  std::vector<std::string> next{};
  std::string keys{};     ///< folder with self.key and next.pub (offramp keygen); for TCP
  bool insecure = false;  ///< TCP without keys: plaintext
  std::string dtype{};    ///< of tensors on the wire: "f32" (also when empty), "f16", "u8", "u8c"
  bool lz4 = false;       ///< packed where that makes them smaller
  /// Normalised entropies below which an exit answers: one for each exit but the last, or one for
  /// all. Empty: the model's.
  std::vector<float> thresholds{};
  /// In their place, the model's rules for so many points of accuracy below its last exit: "0.3",
  /// where it has such targets.
  std::string target{};
  /// Share of the pictures that the first exit is sure of which are handed on all the same, once
  /// they have their result, to see whether it was right; `log` is told every hundred.
  double audit = 0.0;
  /// For each picture, from when it was submitted; then the device answers itself.
  std::chrono::milliseconds deadline{1000};
  /// How long an absent next tier is waited for when it is first needed.
  std::chrono::milliseconds connect_grace{500};
  int window = 8;   ///< pictures away at once, 1..1024
  int queue = 64;   ///< pictures under way or not yet asked for, 1..65536
  int threads = 1;  ///< that share the work of one picture
  /// One line about the link to the next tier, audits, or a callback that has thrown. Called from
  /// the client's thread; what it throws goes no further.
  std::function<void(const std::string&)> log{};
};

/// What a picture cost at one tier; the device is the first.
struct ClientHop {
  std::string tier;  ///< "device", "edge", "cloud"
  std::uint32_t queue_us = 0, compute_us = 0;
  std::uint32_t wait_us = 0;     ///< for the tier after it, whose times are inside
  std::uint32_t sent_bytes = 0;  ///< to the tier after it
};

struct ClientResult {
  int label = -1;  ///< index of the class
  std::string class_name{};
  float probability = 0.0f;
  float entropy = 1.0f;  ///< normalised, in [0, 1]
  int exit = -1;         ///< index of the exit that answered
  std::string exit_name{};
  std::string tier{};  ///< that answered
  /// "ok": the answer of the whole cascade. Otherwise why it is only the best that could be had:
  /// "late", "disconnected", ...; the reasons of net/WIRE.md.
  std::string status{};
  bool degraded = false;               ///< status is not "ok"
  std::vector<float> probabilities{};  ///< of all classes; may be empty
  std::vector<ClientHop> hops{};
  std::uint64_t sent_bytes = 0;  ///< on all links
  std::uint64_t wire_us = 0;     ///< on all links
  std::uint64_t total_us = 0;    ///< since it was submitted
};

using ClientTicket = std::uint64_t;

/// A picture that is done. Without a result when `code` is not kOk.
struct ClientOutcome {
  ClientTicket ticket = 0;
  ClientCode code = ClientCode::kOk;
  std::string message{};  ///< one line, when there is no result
  ClientResult result{};
};

/// Any number of threads may use one client. Each picture that was submitted has exactly one
/// outcome, within the deadline whatever happens behind the device.
class OFFRAMP_CLIENT_API Client {
 public:
  /// Loads the model, starts a thread and connecting; waits for no other tier. Throws ClientError.
  explicit Client(const ClientOptions& options);
  /// Waits for the pictures under way, a deadline at most. No other call may be going on.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Called from the client's thread, which waits for it: be quick. May submit, must not wait. What
  /// it throws is told to `log` and goes no further.
  using Callback = std::function<void(const ClientOutcome&)>;

  /// Takes a picture and returns at once. `file` holds the bytes of a JPEG, PNG or BMP. Its outcome
  /// goes to `done` or, where there is none, to wait() or wait_any(). Throws ClientError.
  ClientTicket submit(std::span<const std::uint8_t> file, Callback done = {});
  /// The same for rgb[height][width][3].
  ClientTicket submit_pixels(std::span<const std::uint8_t> rgb, int width, int height,
                             Callback done = {});

  /// The outcome of `ticket`, which is then forgotten; nullopt when it is not known in time (0: ask
  /// and do not wait). Throws ClientError{kUsage} for a ticket without an outcome to come.
  std::optional<ClientOutcome> wait(ClientTicket ticket, std::chrono::milliseconds patience);
  /// The same for whichever is known first. nullopt at once when none is to come.
  std::optional<ClientOutcome> wait_any(std::chrono::milliseconds patience);

  /// submit() and wait() in one. Throws ClientError.
  ClientResult classify(std::span<const std::uint8_t> file);
  ClientResult classify_pixels(std::span<const std::uint8_t> rgb, int width, int height);

  const std::vector<std::string>& classes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp
