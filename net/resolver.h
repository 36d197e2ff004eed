// Names to addresses, in a thread of its own: a lookup may take as long as it likes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace offramp {

/// All addresses of an endpoint, as endpoints: "tcp://edge.local:5555" -> "tcp://10.0.0.2:5555",
/// "tcp://[fd00::2]:5555". Throws Error when there are none.
using Resolve = std::function<std::vector<std::string>(const std::string& endpoint)>;

/// The system's resolver. Blocks. Throws Error{kUnavailable}.
std::vector<std::string> resolve_addresses(const std::string& endpoint);

/// False for what is an address already: a numeric host, a path.
bool is_name(const std::string& endpoint);

class Resolver {
 public:
  explicit Resolver(Resolve resolve);
  /// Does not wait for a lookup that is going on, which cannot be interrupted: it ends by itself.
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  /// Never blocks. The first one starts the thread; throws Error{kSystem} when there is none.
  void ask(const std::string& endpoint);

  struct Answer {
    std::string endpoint;
    std::vector<std::string> addresses{};  ///< without duplicates; empty when none were found,
    std::string problem{};                 ///< and then why, in one line
  };
  std::optional<Answer> next();
  int fd() const;  ///< readable when there may be an answer

 private:
  struct Shared;
  static void work(const std::shared_ptr<Shared>& shared);

  /// Also the thread's, which may outlive this.
  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace offramp
