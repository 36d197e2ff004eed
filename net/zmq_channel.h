// A link to the next tier over ZeroMQ (DEALER).
//
// On every connection it says HELLO; on WELCOME it is up. It pings, every second while there is
// work, else every 15 s, and takes the link for dead when three pings in a row go unanswered.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "net/channel.h"
#include "net/keys.h"
#include "net/link_session.h"
#include "net/next_nodes.h"
#include "net/socket.h"

namespace offramp {

/// What a client locks its link with.
struct LinkKeys {
  KeyPair own;
  PublicKey server;  ///< a node that cannot prove that it has the key to this one is not talked to
};

struct ZmqChannelOptions {
  LinkTimes times;
  int window = 64;                 ///< most requests away at once; sizes the socket's queues
  std::optional<LinkKeys> keys{};  ///< none: plaintext
  /// Its I/O thread carries the link; none: one of its own. Many links may share one, of which each
  /// is used by one thread at a time.
  std::shared_ptr<ZmqContext> context{};
};

/// Starts connecting at once and never waits for it. Throws Error{kUsage} for an endpoint that
/// makes no sense, Error{kSystem} when the system has no sockets or memory left, or when there are
/// keys and this libzmq has no CURVE.
std::unique_ptr<Channel> connect_zmq(const std::string& endpoint, const LinkIdentity& identity,
                                     const ZmqChannelOptions& options = {});

/// One endpoint of the next tier. Its name may stand for several nodes.
struct ZmqEndpoint {
  std::string endpoint;
  std::optional<LinkKeys> keys{};  ///< none: plaintext
};

/// The nodes at `endpoints`, whose links share one I/O thread. Throws as connect_zmq() does for an
/// endpoint that makes no sense.
NextNodes zmq_nodes(const std::vector<ZmqEndpoint>& endpoints, const LinkIdentity& identity,
                    ZmqChannelOptions options = {});

}  // namespace offramp
