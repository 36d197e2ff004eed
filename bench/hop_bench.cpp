// What one hop costs: the round trip of a request whose computation is next to nothing, over TCP on
// loopback with CURVE, through a node with a worker, one request at a time.
//
//   hop_bench [ROUNDS]        JSON on standard output; exit code 1 when an answer was wrong
//
// The network averages the tensor over its pixels; what that takes is in the node's own account of
// each request (HOP) and stands beside the round trip. Beside each size stands the same without
// CURVE, and what the same bytes cost between two threads without a node: through ZeroMQ alone, and
// on a bare TCP connection. There and back cannot take less on this machine.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "engine/cascade.h"
#include "engine/model.h"
#include "net/node.h"
#include "net/socket.h"
#include "net/zmq_channel.h"

namespace offramp {
namespace {

constexpr int kClasses = 4;
constexpr int kWarmup = 200;

// Two exits, each an average over the pixels and a linear layer: the tensor at the cut between them
// is the network's input.
class Average {
 public:
  explicit Average(Shape shape) : shape_(shape) {
    for (int i = 0; i < kClasses * shape.channels; ++i)
      weight_.push_back(0.1f * static_cast<float>(i % 7 - 3));
    Graph& graph = model_.graph;
    graph.values.push_back(shape);
    for (const char* const name : {"first", "last"}) {
      const ValueId mean = append(GlobalAveragePool{}, 0, std::string(name) + ".mean");
      const ValueId logits = append(Linear{.in_features = shape.channels,
                                           .out_features = kClasses,
                                           .weight = weight_,
                                           .bias = {}},
                                    mean, std::string(name) + ".linear");
      graph.exits.push_back({.name = name, .logits = logits});
    }
    validate(graph);
    model_.name = "average";
    model_.preprocess.input = shape;
    model_.classes.assign(kClasses, "class");
    stages_ = make_stages(model_, {}, PlanOptions{});
  }

  std::span<const Stage> stages() const { return stages_; }
  const ModelId& id() const { return model_.id; }
  const Shape& shape() const { return shape_; }

 private:
  ValueId append(const Op& op, ValueId input, std::string name) {
    Graph& graph = model_.graph;
    const Shape from[] = {graph.values[static_cast<std::size_t>(input)]};
    graph.values.push_back(output_shape(op, from));
    const auto output = static_cast<ValueId>(graph.values.size()) - 1;
    graph.layers.push_back({std::move(name), op, {input}, output});
    return output;
  }

  Shape shape_;
  std::vector<float> weight_;
  Model model_;
  std::vector<Stage> stages_;
};

struct Times {
  std::vector<double> round_trip_us, compute_us, queue_us;
};

double percentile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values.at(std::max<std::size_t>(rank, 1) - 1);
}

double us(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

// Waits for the next event that is a T.
template <class T>
T await(Channel& channel) {
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  while (Clock::now() < end) {
    std::vector<Waitable> items;
    channel.waitables(items);
    wait_readable(items, std::min(end, channel.due()));
    std::vector<LinkEvent> events;
    channel.service(Clock::now(), events);
    for (LinkEvent& event : events)
      if (T* wanted = std::get_if<T>(&event)) return std::move(*wanted);
  }
  throw std::runtime_error("wanted an answer within ten seconds, found none");
}

Times measure(const Average& network, bool encrypted, int rounds) {
  std::optional<NodeKeys> node_keys;
  ZmqChannelOptions link;
  if (encrypted) {
    const KeyPair server = make_key_pair(), client = make_key_pair();
    node_keys.emplace(NodeKeys{.own = server, .allowed = {}});
    node_keys->allowed.add(client.own, {.role = Role::kDevice});
    link.keys = LinkKeys{.own = client, .server = server.own};
  }
  Node node(network.stages(), network.id(),
            {.tier = Tier::kEdge, .listen = "tcp://127.0.0.1:*", .keys = node_keys}, nullptr, {});
  const auto channel =
      connect_zmq(node.endpoint(), link_identity(network.stages(), network.id(), 1), link);
  await<LinkUp>(*channel);

  std::vector<float> values(network.shape().elements());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251) / 251;
  const View sample{.data = values.data(), .batch = 1, .shape = network.shape()};
  StageMemory memory = network.stages()[1].make_memory();
  const Decision expected = network.stages()[1].step(sample, memory).decisions[0];

  Times times;
  for (int i = 0; i < kWarmup + rounds; ++i) {
    const Handoff handoff{.request = make_request_id(1, static_cast<std::uint64_t>(i)),
                          .model = wire_model_id(network.id()),
                          .cut = 1,
                          .budget_us = 5'000'000,
                          .tensor = encode_tensor(sample, {})};
    std::uint32_t sent_bytes = 0;
    const Clock::time_point start = Clock::now();
    if (!channel->submit(handoff, sent_bytes))
      throw std::runtime_error("wanted a request sent, found no room");
    const Verdict verdict = await<Verdict>(*channel);
    const Clock::time_point end = Clock::now();
    if (verdict.decision != expected || verdict.degraded != Reason::kNone)
      throw std::runtime_error("wanted the answer of the stage itself, found another");
    if (i < kWarmup) continue;
    times.round_trip_us.push_back(us(end - start));
    times.compute_us.push_back(verdict.hops.at(0).compute_us);
    times.queue_us.push_back(verdict.hops.at(0).queue_us);
  }
  return times;
}

// ---- bare ZeroMQ ----

constexpr std::size_t kAnswerBytes = 200;

// There and back with two parts of `bytes` in all one way and an answer of kAnswerBytes.
std::vector<double> bare_zmq_us(std::size_t bytes, bool encrypted, int rounds) {
  const ZmqContext context, other;
  ZmqSocket router(context, ZMQ_ROUTER), dealer(other, ZMQ_DEALER);
  if (encrypted) {
    const KeyPair server = make_key_pair(), client = make_key_pair();
    router.set(ZMQ_CURVE_SERVER, 1);
    router.set(ZMQ_CURVE_SECRETKEY, server.secret.bytes());
    dealer.set(ZMQ_CURVE_SERVERKEY, server.own.bytes());
    dealer.set(ZMQ_CURVE_PUBLICKEY, client.own.bytes());
    dealer.set(ZMQ_CURVE_SECRETKEY, client.secret.bytes());
  }
  char endpoint[64];
  std::size_t size = sizeof endpoint;
  if (zmq_bind(router.get(), "tcp://127.0.0.1:*") != 0 ||
      zmq_getsockopt(router.get(), ZMQ_LAST_ENDPOINT, endpoint, &size) != 0 ||
      zmq_connect(dealer.get(), endpoint) != 0)
    throw_zmq_error("wanted a socket on loopback");
  const auto receive = [](ZmqSocket& socket, std::vector<Bytes>& parts, std::size_t count) {
    const std::vector<Waitable> items{{.socket = socket.get()}};
    const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
    std::size_t found = 0;
    while (!socket.receive(parts, count, found) && Clock::now() < end) wait_readable(items, end);
    return found == count;
  };
  const std::jthread echo([&] {
    std::vector<Bytes> parts;
    const Bytes part(kAnswerBytes / 2);
    for (int i = 0; i < kWarmup + rounds; ++i)
      if (!receive(router, parts, 3) || !router.send({parts[0], part, part})) return;
  });
  const Bytes header(kFixedHeaderBytes), payload(bytes - kFixedHeaderBytes);
  std::vector<Bytes> parts;
  std::vector<double> times;
  for (int i = 0; i < kWarmup + rounds; ++i) {
    const Clock::time_point start = Clock::now();
    if (!dealer.send({header, payload}) || !receive(dealer, parts, 2))
      throw std::runtime_error("wanted an answer through ZeroMQ within ten seconds, found none");
    if (i >= kWarmup) times.push_back(us(Clock::now() - start));
  }
  return times;
}

// ---- bare TCP ----

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {
    if (fd < 0) throw std::runtime_error("wanted a socket, found none");
  }
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

  void hurry() const {
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  bool send_all(const std::vector<char>& bytes) const {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return false;
      done += static_cast<std::size_t>(n);
    }
    return true;
  }
  bool receive_all(std::vector<char>& bytes) const {
    return recv(fd_, bytes.data(), bytes.size(), MSG_WAITALL) == static_cast<ssize_t>(bytes.size());
  }

 private:
  int fd_;
};

// There and back with `bytes` one way and an answer of kAnswerBytes.
std::vector<double> bare_tcp_us(std::size_t bytes, int rounds) {
  const Socket listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener.fd(), generic, size) != 0 || listen(listener.fd(), 1) != 0 ||
      getsockname(listener.fd(), generic, &size) != 0)
    throw std::runtime_error("wanted an address on loopback, found none");
  const Socket client(socket(AF_INET, SOCK_STREAM, 0));
  if (connect(client.fd(), generic, size) != 0)
    throw std::runtime_error("wanted a connection on loopback, found none");
  const Socket server(accept(listener.fd(), nullptr, nullptr));
  client.hurry();
  server.hurry();
  std::vector<char> answer(kAnswerBytes), request(bytes);
  const std::jthread echo([&server, bytes] {
    std::vector<char> in(bytes), out(kAnswerBytes);
    while (server.receive_all(in) && server.send_all(out)) {
    }
  });
  std::vector<double> times;
  for (int i = 0; i < kWarmup + rounds; ++i) {
    const Clock::time_point start = Clock::now();
    if (!client.send_all(request) || !client.receive_all(answer))
      throw std::runtime_error("wanted an answer on loopback, found the connection broken");
    if (i >= kWarmup) times.push_back(us(Clock::now() - start));
  }
  shutdown(client.fd(), SHUT_RDWR);
  return times;
}

void run(int rounds) {
  struct Case {
    const char* name;
    Shape shape;
  };
  constexpr Case kCases[] = {
      {"4 KiB", {16, 8, 8}}, {"16 KiB", {16, 16, 16}}, {"64 KiB", {16, 32, 32}}};
  double load[1] = {0.0};
  if (getloadavg(load, 1) != 1) load[0] = -1.0;
  std::printf("{\"rounds\": %d, \"load_average\": %.2f, \"hops\": [", rounds, load[0]);
  const char* separator = "\n";
  for (const Case& each : kCases) {
    const Average network(each.shape);
    const std::size_t bytes = each.shape.elements() * sizeof(float);
    const std::vector<double> bare = bare_tcp_us(bytes + kFixedHeaderBytes, rounds);
    for (const bool encrypted : {true, false}) {
      const Times times = measure(network, encrypted, rounds);
      const std::vector<double> zmq = bare_zmq_us(bytes + kFixedHeaderBytes, encrypted, rounds);
      std::printf(
          "%s {\"tensor\": \"%s\", \"bytes\": %zu, \"curve\": %s, \"p50_us\": %.1f, "
          "\"p99_us\": %.1f, \"compute_p50_us\": %.1f, \"queue_p50_us\": %.1f, "
          "\"bare_zmq_p50_us\": %.1f, \"bare_zmq_p99_us\": %.1f, "
          "\"bare_tcp_p50_us\": %.1f, \"bare_tcp_p99_us\": %.1f}",
          separator, each.name, bytes, encrypted ? "true" : "false",
          percentile(times.round_trip_us, 0.5), percentile(times.round_trip_us, 0.99),
          percentile(times.compute_us, 0.5), percentile(times.queue_us, 0.5), percentile(zmq, 0.5),
          percentile(zmq, 0.99), percentile(bare, 0.5), percentile(bare, 0.99));
      separator = ",\n";
    }
  }
  std::printf("\n]}\n");
}

}  // namespace
}  // namespace offramp

int main(int argc, char** argv) {
  int rounds = 5000;
  if (argc > 2) return 64;
  if (argc == 2) {
    const std::string_view text = argv[1];
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rounds);
    if (error != std::errc{} || end != text.data() + text.size() || rounds < 1) {
      std::fprintf(stderr, "hop_bench: wanted a number of rounds, found '%s'\n", argv[1]);
      return 64;
    }
  }
  try {
    offramp::run(rounds);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hop_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
