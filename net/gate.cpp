#include "net/gate.h"

#include <zmq.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

namespace offramp {
namespace {

constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";
constexpr std::string_view kZapVersion = "1.0";
constexpr std::string_view kZapDomain = "offramp";
// A question of ZAP: version, request id, domain, address, routing id, mechanism, key.
constexpr std::size_t kQuestionParts = 7;
constexpr std::size_t kRequestId = 1, kAddress = 3, kMechanism = 5, kKey = 6;
// ZMQ_ZAP_ENFORCE_DOMAIN: where nobody answers ZAP's questions, nobody gets in. Debian's header
// keeps the name for builds with draft features; its library knows the option all the same, and one
// that did not would end the node before it listens.
constexpr int kZapEnforceDomain = 93;
// Questions answered in one turn of the loop, so that those who are inside get theirs.
constexpr int kQuestionsPerTurn = 64;
// ROUTER gives such ids itself; one that a peer has chosen may be another peer's tomorrow, and
// answers would go to the wrong one.
constexpr std::size_t kGivenIdBytes = 5;

std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string text_of(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

// "10.0.0.7" out of what ZeroMQ says, which a peer does not choose.
std::string shown_address(const Bytes& address) {
  std::string text = text_of(address);
  if (const std::string_view mapped = "::ffff:"; text.starts_with(mapped))
    text.erase(0, mapped.size());
  return text.empty() ? "?" : text;
}

std::string shown_key(const std::string& key_text, const std::string& name = {}) {
  return "key " + fingerprint(key_text) + "..." + (name.empty() ? "" : " (" + name + ")");
}

}  // namespace

Gate::Gate(Tier tier, std::optional<NodeKeys> keys, Log log) : tier_(tier), log_(std::move(log)) {
  if (!keys) return;
  require_curve();
  own_.emplace(keys->own);
  allowed_ = std::move(keys->allowed);
}

void Gate::open(const ZmqContext& context) {
  if (!own_) return;
  zap_.emplace(context, ZMQ_REP);
  zap_->set(ZMQ_LINGER, 0);
  if (zmq_bind(zap_->get(), kZapEndpoint) != 0) throw_zmq_error(kZapEndpoint);
}

void Gate::guard(const ZmqContext& context, ZmqSocket& listener, std::uint64_t most_bytes) {
  monitor_.emplace(context, listener,
                   handshake_failure_events() | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED);
  intake_.emplace(most_bytes);
  if (!own_) return;
  listener.set(ZMQ_CURVE_SERVER, 1);
  listener.set(ZMQ_CURVE_SECRETKEY, own_->secret.bytes());
  listener.set(ZMQ_ZAP_DOMAIN, bytes_of(kZapDomain));
  listener.set(kZapEnforceDomain, 1);
}

void Gate::close() {
  intake_.reset();
  monitor_.reset();
  zap_.reset();
}

void Gate::waitables(std::vector<Waitable>& out) const {
  if (zap_) out.push_back({.socket = zap_->get()});
  if (monitor_) out.push_back(monitor_->waitable());
}

void Gate::serve(Clock::time_point now) {
  for (int i = 0; i < kQuestionsPerTurn && answer_one(now); ++i) {
  }
  // All of them: the queue of events has no bound, and strangers fill it.
  while (monitor_) {
    const std::optional<SocketMonitor::Event> event = monitor_->next();
    if (!event) break;
    if (event->type == ZMQ_EVENT_ACCEPTED) intake_->opened(static_cast<int>(event->value));
    if (event->type == ZMQ_EVENT_DISCONNECTED) intake_->closed(static_cast<int>(event->value));
    if (const auto failure = handshake_failure(*event)) take_note(*failure, now);
  }
  for (int ended = intake_ ? intake_->review(now) : 0; ended > 0; --ended)
    refuse(Denial::kUnfinished,
           "hung up: wanted messages, found one that goes on beyond what all of them may take",
           now);
}

Clock::time_point Gate::due() const { return intake_ ? intake_->due() : Clock::time_point::max(); }

bool Gate::answer_one(Clock::time_point now) {
  if (!zap_) return false;
  std::vector<Bytes> question;
  std::size_t count = 0;
  if (!zap_->receive(question, kQuestionParts, count)) return false;
  std::string user;
  const bool welcome = count == kQuestionParts && decide(question, user, now);
  const Bytes request = question.size() > kRequestId ? question[kRequestId] : Bytes{};
  zap_->send({bytes_of(kZapVersion), request, bytes_of(welcome ? "200" : "400"),
              bytes_of(welcome ? "welcome" : "not allowed"), bytes_of(user), bytes_of("")});
  return true;
}

// The client has proved by now that it has the secret key to the public one that is asked about.
bool Gate::decide(const std::vector<Bytes>& question, std::string& user, Clock::time_point now) {
  if (text_of(question[0]) != kZapVersion || text_of(question[kMechanism]) != "CURVE" ||
      question[kKey].size() != kKeyBytes)
    return false;
  std::array<std::uint8_t, kKeyBytes> bytes{};
  std::copy_n(question[kKey].begin(), kKeyBytes, bytes.begin());
  const std::string key = PublicKey(bytes).text();
  const std::string from = "refused a connection from " + shown_address(question[kAddress]) + ": ";
  const std::optional<AllowList::Entry> entry = entry_of(key);
  if (!entry) {
    refuse(Denial::kUnknownKey,
           from + "wanted a key of the allow-list, found an unknown one, " + shown_key(key), now);
    return false;
  }
  if (!may_connect(entry->role, tier_)) {
    refuse(Denial::kRole,
           from + "wanted the role " + wanted_role(tier_) + " or any, found " +
               role_name(entry->role) + ", " + shown_key(key, entry->name),
           now);
    return false;
  }
  user = key;
  return true;
}

void Gate::take_note(HandshakeFailure failure, Clock::time_point now) {
  const std::string refused = "refused a connection: wanted ";
  switch (failure) {
    case HandshakeFailure::kMechanism:
      refuse(Denial::kNoKeys,
             refused +
                 (own_ ? "CURVE, found a peer without keys" : "plaintext, found a peer with keys"),
             now);
      return;
    case HandshakeFailure::kServerKey:
      refuse(Denial::kServerKey,
             refused + "a peer that knows this node's public key, found one with another", now);
      return;
    case HandshakeFailure::kProtocol:
      refuse(Denial::kHandshake, refused + "a handshake of ZeroMQ, found something else", now);
      return;
    case HandshakeFailure::kBroken:
      // Of two ends that do not fit, one hangs up first; when it is the other, this is all we see.
      refuse(Denial::kHandshake,
             refused + "a whole handshake, found one that broke off: of a peer " +
                 (own_ ? "without keys" : "with keys") + ", or of one that left",
             now);
      return;
    case HandshakeFailure::kDenied:
      return;  // decide() has told
  }
}

bool Gate::admits(const std::string& key_text, const std::string& routing_id,
                  Clock::time_point now) {
  if (routing_id.size() != kGivenIdBytes || routing_id[0] != '\0') {
    refuse(Denial::kRoutingId,
           "dropped a message: wanted a peer without a routing id of its own, found one" +
               (key_text.empty() ? std::string() : ", " + shown_key(key_text)),
           now);
    return false;
  }
  if (allows(key_text)) return true;
  refuse(Denial::kWithdrawn,
         "dropped a message: wanted a key of the allow-list, found one that was taken off it, " +
             shown_key(key_text),
         now);
  return false;
}

bool Gate::allows(const std::string& key_text) const {
  if (!own_) return true;
  const std::lock_guard lock(mutex_);
  const AllowList::Entry* entry = allowed_.find(key_text);
  return entry != nullptr && may_connect(entry->role, tier_);
}

std::optional<AllowList::Entry> Gate::entry_of(const std::string& key_text) const {
  const std::lock_guard lock(mutex_);
  const AllowList::Entry* entry = allowed_.find(key_text);
  return entry == nullptr ? std::nullopt : std::optional(*entry);
}

void Gate::allow(AllowList allowed) {
  const std::lock_guard lock(mutex_);
  allowed_ = std::move(allowed);
}

DenialCounts Gate::denials() const {
  const std::lock_guard lock(mutex_);
  return denials_;
}

void Gate::refuse(Denial reason, const std::string& line, Clock::time_point now) {
  {
    const std::lock_guard lock(mutex_);
    ++denials_[static_cast<std::size_t>(reason)];
  }
  log_.note(reason, line, now);
}

}  // namespace offramp
