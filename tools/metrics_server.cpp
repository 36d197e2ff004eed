#include "tools/metrics_server.h"

#include <httplib.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/error.h"

namespace offramp::cli {
namespace {

constexpr std::size_t kThreads = 4;
constexpr std::chrono::milliseconds kConnectionTime{2000};
constexpr std::size_t kMostBytesRead = 16384;
constexpr int kNiceness = 10;

// A worker may have one long batch under way; a node that is to be ended has been stuck for longer.
constexpr std::chrono::milliseconds kNotReadyAfter{3000};
constexpr std::chrono::milliseconds kNotLiveAfter{10000};

/// One connection, bounded in time and in what it may send. Of that the library sees the request
/// line alone: no header changes what a node tells, and some of them cost or break much.
class BoundedStream final : public httplib::Stream {
 public:
  explicit BoundedStream(socket_t socket)
      : socket_(socket), ends_(Clock::now() + kConnectionTime) {}

  /// False when the client has not sent the whole head of a request.
  bool read_head() {
    std::array<char, 1024> piece{};
    while (head_.find("\n\r\n") == std::string::npos && head_.find("\n\n") == std::string::npos) {
      if (head_.size() >= kMostBytesRead || !ready(POLLIN)) return false;
      const ssize_t got = recv(socket_, piece.data(), piece.size(), MSG_DONTWAIT);
      if (got <= 0) return false;
      head_.append(piece.data(), static_cast<std::size_t>(got));
    }
    head_.resize(head_.find('\n'));
    if (head_.ends_with('\r')) head_.pop_back();
    head_ += "\r\n\r\n";
    return true;
  }

  bool is_readable() const override { return begin_ < head_.size(); }
  bool is_writable() const override { return ready(POLLOUT); }

  ssize_t read(char* to, std::size_t size) override {
    if (begin_ == head_.size()) return -1;
    const std::size_t count = head_.copy(to, size, begin_);
    begin_ += count;
    return static_cast<ssize_t>(count);
  }

  ssize_t write(const char* from, std::size_t size) override {
    if (!ready(POLLOUT)) return -1;
    return send(socket_, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool ready(short event) const {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(ends_ - Clock::now()).count();
    pollfd item{.fd = socket_, .events = event, .revents = 0};
    return left > 0 && poll(&item, 1, static_cast<int>(left)) > 0;
  }

  socket_t socket_;
  Clock::time_point ends_;
  std::string head_;
  std::size_t begin_ = 0;  ///< what of it has been read
};

/// The connections that are open. More than the threads can serve are not even accepted.
class Connections {
 public:
  void enter() {
    std::unique_lock lock(mutex_);
    // Whoever has been here for longest is the one that hangs.
    if (count_ == kThreads && !open_.empty()) shutdown(open_.front(), SHUT_RDWR);
    room_.wait(lock, [this] { return count_ < kThreads; });
    ++count_;
  }
  void leave() {
    {
      const std::lock_guard lock(mutex_);
      --count_;
    }
    room_.notify_one();
  }

  void open(socket_t socket) {
    const std::lock_guard lock(mutex_);
    open_.push_back(socket);
    if (shut_) shutdown(socket, SHUT_RDWR);
  }
  void close(socket_t socket) {
    const std::lock_guard lock(mutex_);
    open_.remove(socket);
    shutdown(socket, SHUT_RDWR);
    ::close(socket);
  }
  /// Those that are open, and those that still come.
  void shut_all() {
    const std::lock_guard lock(mutex_);
    shut_ = true;
    for (const socket_t socket : open_) shutdown(socket, SHUT_RDWR);
  }

 private:
  std::mutex mutex_;
  std::condition_variable room_;
  std::size_t count_ = 0;     ///< accepted and not yet done with
  std::list<socket_t> open_;  ///< those that a thread has, the oldest first
  bool shut_ = false;
};

class Pool final : public httplib::TaskQueue {
 public:
  explicit Pool(Connections& connections) : connections_(connections), pool_(kThreads) {}

  /// Called by the thread that accepts, which waits here while there is no room.
  void enqueue(std::function<void()> serve) override {
    connections_.enter();
    pool_.enqueue([this, serve = std::move(serve)] {
      serve();
      connections_.leave();
    });
  }
  void shutdown() override { pool_.shutdown(); }

 private:
  Connections& connections_;
  httplib::ThreadPool pool_;
};

class Server final : public httplib::Server {
 public:
  explicit Server(Connections& connections) : connections_(connections) {
    new_task_queue = [&connections] { return new Pool(connections); };
    set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
      using enum httplib::Server::HandlerResponse;
      if (request.method == "GET" || request.method == "HEAD") return Unhandled;
      response.status = 405;
      response.set_header("Allow", "GET, HEAD");
      return Handled;
    });
    // Not SO_REUSEPORT, with which a second node would share the port without a word.
    set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
  }

 private:
  bool process_and_close_socket(socket_t socket) override {
    setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone
    connections_.open(socket);
    BoundedStream stream(socket);
    bool closed = false;
    const bool served = stream.read_head() && process_request(stream, true, closed, nullptr);
    connections_.close(socket);
    return served;
  }

  Connections& connections_;
};

/// What errno says after a bind that failed; where it was the name's fault, it says nothing.
std::string bind_failure(int error) {
  const bool told = error == EADDRINUSE || error == EADDRNOTAVAIL || error == EACCES;
  return told ? std::strerror(error) : "no such address on this machine";
}

std::string seconds_text(std::chrono::milliseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

/// Why the node is not well, in one line; none when it is.
std::optional<std::string> stuck_for(const TelemetrySnapshot& now, std::chrono::milliseconds most) {
  if (now.loop_silent > most) return "the loop has not turned for " + seconds_text(now.loop_silent);
  if (now.workers_silent > most)
    return "the workers have not answered for " + seconds_text(now.workers_silent);
  return {};
}

std::optional<std::string> not_ready(const TelemetrySnapshot& now) {
  if (now.draining) return "draining";
  return stuck_for(now, kNotReadyAfter);
}

}  // namespace

HttpAddress parse_http_address(const std::string& option, const std::string& text, int least_port) {
  const std::size_t colon = text.rfind(':');
  const std::string port_text = colon == std::string::npos ? text : text.substr(colon + 1);
  std::string host = colon == std::string::npos ? "" : text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.empty()) host = "127.0.0.1";
  int port = -1;
  const auto [rest, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc{} || rest != port_text.data() + port_text.size() || port < least_port ||
      port > 65535 || host.find('/') != std::string::npos)
    throw Error(ErrorKind::kUsage, option + ": wanted HOST:PORT or PORT with a port from " +
                                       std::to_string(least_port) + " to 65535, found '" + text +
                                       "'");
  return {host, port};
}

std::string to_string(const HttpAddress& address) {
  const bool six = address.host.find(':') != std::string::npos;
  return (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

struct MetricsServer::Impl {
  Connections connections;
  Server server{connections};
  HttpAddress address;
  std::thread thread;  ///< accepts
};

MetricsServer::MetricsServer(const HttpAddress& address) : impl_(std::make_unique<Impl>()) {
  impl_->address = address;
  errno = 0;
  if (address.port == 0) {
    impl_->address.port = impl_->server.bind_to_any_port(address.host);
  } else if (!impl_->server.bind_to_port(address.host, address.port)) {
    impl_->address.port = -1;
  }
  if (impl_->address.port > 0) return;
  throw Error(ErrorKind::kUnavailable,
              "--metrics " + to_string(address) +
                  ": wanted an address to listen on, found: " + bind_failure(errno));
}

MetricsServer::~MetricsServer() { stop(); }

const HttpAddress& MetricsServer::address() const { return impl_->address; }

void MetricsServer::serve(NodeIdentity identity, std::function<TelemetrySnapshot()> read) {
  const char* const type = "text/plain; version=0.0.4; charset=utf-8";
  impl_->server.Get("/metrics",
                    [read, identity, type](const httplib::Request&, httplib::Response& response) {
                      response.set_content(metrics_text(read(), identity), type);
                    });
  const auto health = [&](const char* path, auto problem) {
    impl_->server.Get(path, [read, problem](const httplib::Request&, httplib::Response& response) {
      const std::optional<std::string> why = problem(read());
      if (why) response.status = 503;
      response.set_content(why.value_or("ok") + "\n", "text/plain");
    });
  };
  health("/health/live",
         [](const TelemetrySnapshot& now) { return stuck_for(now, kNotLiveAfter); });
  health("/health/ready", not_ready);
  try {
    impl_->thread = std::thread([this] { impl_->server.listen_after_bind(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kSystem, std::string("metrics thread: ") + error.what());
  }
  // A stop() before it runs would be lost.
  const Clock::time_point until = Clock::now() + std::chrono::seconds(10);
  while (!impl_->server.is_running() && Clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void MetricsServer::stop() {
  if (!impl_->thread.joinable()) return;
  impl_->server.stop();
  impl_->connections.shut_all();
  impl_->thread.join();
}

}  // namespace offramp::cli
