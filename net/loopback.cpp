#include "net/loopback.h"

#include <deque>
#include <mutex>
#include <utility>

#include "net/link_session.h"
#include "net/poll.h"

namespace offramp {

struct Loopback::Impl {
  std::mutex mutex;
  std::deque<Message> to_node, to_client;
  bool node_there = false;
  std::uint64_t node_generation = 0;  ///< counts the nodes that were plugged in
  EventFd node_event, client_event;
};

class LoopbackChannel final : public Channel {
 public:
  LoopbackChannel(Loopback::Impl& cable, const LinkIdentity& identity)
      : cable_(cable), session_("loopback", identity, LinkTimes{}, [this](Message message) {
          return send(std::move(message));
        }) {}

  ~LoopbackChannel() override { send(Bye{}); }

  bool submit(const Handoff& handoff, std::uint32_t& sent_bytes) override {
    const auto bytes =
        static_cast<std::uint32_t>(kFixedHeaderBytes + handoff.tensor.payload.size());
    if (session_.state() != LinkState::kUp || !send(handoff)) return false;
    sent_bytes = bytes;
    session_.submitted(handoff.request);
    return true;
  }

  void cancel(const RequestId& request) override { session_.cancel(request); }

  void service(Clock::time_point now, std::vector<LinkEvent>& events) override {
    cable_.client_event.clear();
    std::deque<Message> messages;
    bool there = false;
    std::uint64_t generation = 0;
    {
      const std::lock_guard lock(cable_.mutex);
      messages.swap(cable_.to_client);
      there = cable_.node_there;
      generation = cable_.node_generation;
    }
    for (Message& message : messages) session_.received(std::move(message), now, events);
    if (connected_ && (!there || generation != generation_)) {
      session_.disconnected("connection lost", false, events);
      connected_ = false;
    }
    if (there && !connected_) {
      session_.connected(now);
      connected_ = true;
      generation_ = generation;
    }
    if (!session_.tick(now)) {
      session_.disconnected("no sign of life", true, events);
      connected_ = false;
    }
  }

  void waitables(std::vector<Waitable>& out) const override {
    out.push_back({.fd = cable_.client_event.fd()});
  }

  Clock::time_point due() const override { return session_.due(); }
  LinkState state() const override { return session_.state(); }
  int window() const override { return session_.window(); }
  bool takes_pictures() const override { return session_.takes_pictures(); }
  LinkLoad load() const override { return session_.load(); }
  std::chrono::microseconds round_trip() const override { return session_.round_trip(); }
  const std::string& endpoint() const override { return session_.endpoint(); }

 private:
  bool send(Message message) {
    {
      const std::lock_guard lock(cable_.mutex);
      if (!cable_.node_there) return false;
      cable_.to_node.push_back(std::move(message));
    }
    cable_.node_event.signal();
    return true;
  }

  Loopback::Impl& cable_;
  LinkSession session_;
  bool connected_ = false;
  std::uint64_t generation_ = 0;
};

Loopback::Loopback() : impl_(std::make_unique<Impl>()) {}
Loopback::~Loopback() = default;

std::unique_ptr<Channel> Loopback::connect(const LinkIdentity& identity) {
  return std::make_unique<LoopbackChannel>(*impl_, identity);
}

void Loopback::attach() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->node_there = true;
    ++impl_->node_generation;
    impl_->to_node.clear();
  }
  impl_->client_event.signal();
}

void Loopback::detach() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->node_there = false;
    impl_->to_node.clear();
  }
  impl_->client_event.signal();
}

bool Loopback::receive(Message& message) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->to_node.empty()) {
    impl_->node_event.clear();
    return false;
  }
  message = std::move(impl_->to_node.front());
  impl_->to_node.pop_front();
  return true;
}

void Loopback::send(Message message) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->to_client.push_back(std::move(message));
  }
  impl_->client_event.signal();
}

int Loopback::readable_fd() const { return impl_->node_event.fd(); }

}  // namespace offramp
