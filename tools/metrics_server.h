// What a node tells over HTTP: /metrics for Prometheus, /health/live and /health/ready for whoever
// starts and stops it.
//
// A few threads of its own, with less priority than those that compute. Each connection gets one
// answer, to GET or HEAD, within two seconds and may send 16 KiB, of which nothing counts but the
// request line; where there are more than threads, the oldest is closed for the newest.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "net/telemetry.h"
#include "tools/metrics_text.h"

namespace offramp::cli {

struct HttpAddress {
  std::string host;  ///< without brackets
  int port = 0;
};

/// "9100", ":9100" (on loopback), "0.0.0.0:9100", "[::1]:0". Throws Error{kUsage} naming `option`.
HttpAddress parse_http_address(const std::string& option, const std::string& text, int least_port);
std::string to_string(const HttpAddress& address);  ///< "[::1]:9100"

class MetricsServer {
 public:
  /// Binds; nobody is answered before serve(). Throws Error{kUnavailable} when that cannot be had.
  explicit MetricsServer(const HttpAddress& address);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  /// What was bound, with the real port.
  const HttpAddress& address() const;

  /// Answers from now on. `read` comes from its threads until stop(). Throws Error{kSystem}.
  void serve(NodeIdentity identity, std::function<TelemetrySnapshot()> read);
  /// Answers no more and lets `read` go.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace offramp::cli
