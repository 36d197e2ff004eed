#include "net/resolver.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "net/poll.h"
#include "net/socket.h"

namespace offramp {
namespace {

const std::string kScheme = "tcp://";

struct HostPort {
  std::string host;  ///< without the brackets of an IPv6 address
  std::string port;
};

HostPort split(const std::string& endpoint) {
  const std::size_t colon = endpoint.rfind(':');
  std::string host = endpoint.substr(kScheme.size(), colon - kScheme.size());
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return {std::move(host), endpoint.substr(colon + 1)};
}

class AddressList {
 public:
  explicit AddressList(const std::string& endpoint) {
    const HostPort wanted = split(endpoint);
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    const int error = getaddrinfo(wanted.host.c_str(), wanted.port.c_str(), &hints, &first_);
    if (error != 0)
      throw Error(ErrorKind::kUnavailable, endpoint + ": wanted an address of " + wanted.host +
                                               ", found: " + gai_strerror(error));
  }
  ~AddressList() { freeaddrinfo(first_); }
  AddressList(const AddressList&) = delete;
  AddressList& operator=(const AddressList&) = delete;
  const addrinfo* first() const { return first_; }

 private:
  addrinfo* first_ = nullptr;
};

}  // namespace

bool is_name(const std::string& endpoint) {
  if (!endpoint.starts_with(kScheme)) return false;
  const std::string host = split(endpoint).host;
  std::array<unsigned char, sizeof(in6_addr)> address{};
  return inet_pton(AF_INET, host.c_str(), address.data()) != 1 &&
         inet_pton(AF_INET6, host.c_str(), address.data()) != 1;
}

std::vector<std::string> resolve_addresses(const std::string& endpoint) {
  const AddressList list(endpoint);
  std::vector<std::string> addresses;
  for (const addrinfo* each = list.first(); each != nullptr; each = each->ai_next) {
    std::array<char, NI_MAXHOST> host{};
    if (getnameinfo(each->ai_addr, each->ai_addrlen, host.data(), host.size(), nullptr, 0,
                    NI_NUMERICHOST) != 0)
      continue;
    const bool six = each->ai_family == AF_INET6;
    addresses.push_back(kScheme + (six ? "[" : "") + host.data() + (six ? "]:" : ":") +
                        split(endpoint).port);
  }
  return addresses;
}

struct Resolver::Shared {
  Resolve resolve;
  EventFd event;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> questions;  ///< the first is being looked up while `busy`
  std::deque<Answer> answers;
  bool busy = false, closed = false;
};

Resolver::Resolver(Resolve resolve) : shared_(std::make_shared<Shared>()) {
  shared_->resolve = std::move(resolve);
}

Resolver::~Resolver() {
  bool busy = false;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->closed = true;
    busy = shared_->busy;
  }
  shared_->changed.notify_all();
  if (!thread_.joinable()) return;
  if (busy)
    thread_.detach();
  else
    thread_.join();
}

void Resolver::ask(const std::string& endpoint) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (std::ranges::find(shared_->questions, endpoint) != shared_->questions.end()) return;
    shared_->questions.push_back(endpoint);
  }
  shared_->changed.notify_all();
  if (thread_.joinable()) return;
  try {
    thread_ = std::thread([shared = shared_] { work(shared); });
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kSystem, std::string("resolver thread: ") + error.what());
  }
}

void Resolver::work(const std::shared_ptr<Shared>& shared) {
  std::unique_lock lock(shared->mutex);
  while (true) {
    shared->changed.wait(lock, [&] { return shared->closed || !shared->questions.empty(); });
    if (shared->closed) return;
    Answer answer{.endpoint = shared->questions.front()};
    shared->busy = true;
    lock.unlock();
    try {
      answer.addresses = shared->resolve(answer.endpoint);
      std::ranges::sort(answer.addresses);
      answer.addresses.erase(std::unique(answer.addresses.begin(), answer.addresses.end()),
                             answer.addresses.end());
      if (answer.addresses.empty())
        answer.problem = answer.endpoint + ": wanted an address, found none";
    } catch (const std::exception& error) {
      answer.problem = error.what();
    }
    lock.lock();
    shared->busy = false;
    shared->questions.pop_front();
    shared->answers.push_back(std::move(answer));
    shared->event.signal();
  }
}

std::optional<Resolver::Answer> Resolver::next() {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->answers.empty()) {
    shared_->event.clear();
    return {};
  }
  Answer answer = std::move(shared_->answers.front());
  shared_->answers.pop_front();
  return answer;
}

int Resolver::fd() const { return shared_->event.fd(); }

}  // namespace offramp
