#include "tests/test_nodes.h"

#include <doctest/doctest.h>
#include <zmq.h>

#include <algorithm>
#include <utility>

namespace offramp::test {
namespace {

constexpr Shape kPicture{.channels = 3, .height = 8, .width = 8};

void build(GraphBuilder& builder) {
  const auto head = [&builder](ValueId x) {
    builder.exit(builder.linear(builder.append(GlobalAveragePool{}, {x}), 7));
  };
  ValueId x = builder.relu(builder.conv(0, 8, 3, 1, 1));
  head(x);
  x = builder.relu(builder.conv(x, 12, 3, 2, 1));
  head(x);
  x = builder.relu(builder.conv(x, 16, 3, 2, 1));
  head(x);
}

float middle(std::vector<float> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

SmallCascade::SmallCascade(Thresholds thresholds, int pictures, int batch)
    : batch_(batch), builder_(kPicture, 7) {
  build(builder_);
  model_ = make_model(builder_.graph());
  for (std::size_t i = 0; i < model_.id.size(); ++i)
    model_.id[i] = static_cast<std::uint8_t>(i + 1);
  std::mt19937 random(11);
  pixels_ =
      random_floats(random, static_cast<std::size_t>(pictures) * kPicture.elements(), -3.0f, 3.0f);
  expected_.resize(static_cast<std::size_t>(pictures));
  undecided_ = with_thresholds(0.0f, 0.0f);
  std::vector<float> first, second;
  for (std::size_t i = 0; i < size(); ++i) {
    first.push_back(at_exit(i, 0).entropy);
    second.push_back(at_exit(i, 1).entropy);
  }
  if (thresholds == Thresholds::kNone) stages_ = with_thresholds(0.0f, 0.0f);
  if (thresholds == Thresholds::kMixed) stages_ = with_thresholds(middle(first), middle(second));
  if (thresholds == Thresholds::kAll) stages_ = with_thresholds(1.0f, 1.0f);
  CascadeMemory memory = make_cascade_memory(stages_);
  for (std::size_t i = 0; i < size(); ++i)
    run_cascade(stages_, picture(i), memory, std::span(&expected_[i], 1));
}

std::vector<Stage> SmallCascade::with_thresholds(float first, float second) const {
  const float thresholds[] = {first, second};
  return make_stages(model_, thresholds, PlanOptions{.max_batch = batch_});
}

View SmallCascade::picture(std::size_t index) const {
  return {.data = pixels_.data() + index * kPicture.elements(), .batch = 1, .shape = kPicture};
}

Decision SmallCascade::at_exit(std::size_t index, int exit) const {
  Decision decision;
  View input = picture(index);
  std::vector<StageMemory> memories;
  for (int i = 0; i <= exit; ++i) {
    const Stage& stage = undecided_[static_cast<std::size_t>(i)];
    memories.push_back(stage.make_memory());
    const Stage::Outcome outcome = stage.step(input, memories.back());
    decision = outcome.decisions[0];
    input = outcome.carry;
  }
  return decision;
}

Device::Source SmallCascade::source() const {
  return [this](std::size_t index, std::span<float> input) {
    std::copy_n(picture(index % size()).data, input.size(), input.begin());
    return true;
  };
}

LargeCascade::LargeCascade(int side) : builder({.channels = 3, .height = side, .width = side}, 7) {
  const auto head = [this](ValueId x) {
    builder.exit(builder.linear(builder.append(GlobalAveragePool{}, {x}), 7));
  };
  const ValueId x = builder.relu(builder.conv(0, 8, 3, 1, 1));
  head(x);
  head(builder.relu(builder.conv(x, 8, 3, 8, 1)));
  model = make_model(builder.graph());
  const float thresholds[] = {0.0f};
  stages = make_stages(model, thresholds, PlanOptions{});
}

std::unique_ptr<Channel> to(const SmallCascade& cascade, const std::string& endpoint, int stage,
                            const ZmqChannelOptions& options) {
  return connect_zmq(endpoint, cascade.link(stage), options);
}

NodeOptions whole_edge(const std::string& listen) {
  return {.tier = Tier::kEdge, .listen = listen, .stage_count = 2};
}

NodeOptions edge_options() { return {.tier = Tier::kEdge, .listen = kAnyPort}; }

NodeOptions cloud_options() { return {.tier = Tier::kCloud, .listen = kAnyPort, .first_stage = 2}; }

std::unique_ptr<Node> start(const SmallCascade& cascade, const NodeOptions& options, NextNodes next,
                            Log log) {
  return std::make_unique<Node>(cascade.stages(), cascade.id(), options, std::move(next),
                                std::move(log));
}

Log Ear::log() {
  return [this](LogLevel, const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
  };
}

std::size_t Ear::count(const std::string& text) const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(std::ranges::count_if(
      lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; }));
}

std::string Ear::all() const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const std::string& line : lines_) text += line + "\n";
  return text;
}

void Ear::await_next_tier(std::size_t count) const {
  REQUIRE(eventually([&] { return this->count("next tier connected") >= count; }));
}

TwoNodes::TwoNodes(const SmallCascade& cascade, const NodeOptions& edge_opts,
                   const NodeOptions& cloud_opts)
    : cloud(start(cascade, cloud_opts)),
      edge(start(cascade, edge_opts, to(cascade, cloud->endpoint(), 2), ear.log())) {
  ear.await_next_tier();
}

std::vector<Outcome> run_all(Device& device, const SmallCascade& cascade, std::size_t count) {
  if (count == 0) count = cascade.size();
  std::vector<Outcome> outcomes(count);
  std::vector<int> times(count, 0);
  device.run(count, cascade.source(), [&](std::size_t index, const Outcome& outcome) {
    outcomes[index] = outcome;
    ++times[index];
  });
  CHECK(std::ranges::all_of(times, [](int n) { return n == 1; }));
  return outcomes;
}

std::vector<Outcome> run_until(Device& device, const SmallCascade& cascade,
                               const std::function<bool()>& condition) {
  std::vector<Outcome> all;
  CHECK(eventually(
      [&] {
        const std::vector<Outcome> some = run_all(device, cascade, 10);
        all.insert(all.end(), some.begin(), some.end());
        return condition();
      },
      std::chrono::seconds(20), std::chrono::milliseconds(5)));
  return all;
}

void connect(Device& device, const SmallCascade& cascade, std::size_t count) {
  run_until(device, cascade, [&] { return links_up(device) == count; });
}

std::size_t links_up(const Device& device) {
  return static_cast<std::size_t>(
      std::ranges::count(device.links(), LinkState::kUp, &LinkStatus::state));
}

void check_whole(const std::vector<Outcome>& outcomes, const SmallCascade& cascade) {
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    CAPTURE(i);
    CHECK(outcomes[i].degraded == Reason::kNone);
    CHECK(outcomes[i].decision == cascade.expected()[i % cascade.size()]);
  }
}

std::size_t count_reason(const std::vector<Outcome>& outcomes, Reason reason) {
  return static_cast<std::size_t>(std::ranges::count(outcomes, reason, &Outcome::degraded));
}

Hello hello_of(const SmallCascade& cascade) {
  const LinkIdentity identity = cascade.link();
  return {.session = 1, .model = identity.model, .cut = 1, .shape = identity.shape};
}

Handoff handoff_of(const SmallCascade& cascade, std::uint64_t counter, float value,
                   const TensorFormat& format) {
  const LinkIdentity identity = cascade.link();
  const std::vector<float> values(identity.shape.elements(), value);
  return {.request = make_request_id(1, counter),
          .model = identity.model,
          .cut = 1,
          .attempt = 0,
          .hop = 0,
          .budget_us = 20'000'000,
          .tensor =
              encode_tensor({.data = values.data(), .batch = 1, .shape = identity.shape}, format)};
}

RawClient::RawClient(const std::string& endpoint) : socket_(context_, ZMQ_DEALER) {
  socket_.set(ZMQ_LINGER, 1000);
  REQUIRE(zmq_connect(socket_.get(), endpoint.c_str()) == 0);
}

void RawClient::send(std::initializer_list<std::span<const std::uint8_t>> parts) {
  REQUIRE(socket_.send(parts));
}

void RawClient::send(Message message) {
  const Frames frames = encode(std::move(message));
  send({frames.header, frames.payload});
}

std::optional<Message> RawClient::receive(std::chrono::milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  std::vector<Bytes> parts;
  std::size_t count = 0;
  while (!socket_.receive(parts, 2, count)) {
    if (Clock::now() >= until) return {};
    wait_readable({{.socket = socket_.get()}}, until);
  }
  REQUIRE(count == 2);
  auto decoded = decode(parts[0], parts[1],
                        {.max_payload_bytes = 1 << 20, .max_classes = 100, .max_exits = 10});
  REQUIRE(std::holds_alternative<Message>(decoded));
  return std::get<Message>(std::move(decoded));
}

std::uint16_t join(RawClient& client, const SmallCascade& cascade) {
  client.send(hello_of(cascade));
  const std::optional<Welcome> welcome = client.wait_for<Welcome>();
  REQUIRE(welcome.has_value());
  return welcome->window;
}

Welcome welcome_to(const Hello& hello, std::uint16_t window) {
  return {.session = hello.session,
          .model = hello.model,
          .cut = hello.cut,
          .shape = hello.shape,
          .tier = Tier::kEdge,
          .window = window};
}

void FakeNode::Caller::reply(Message message) const {
  const Frames frames = encode(std::move(message));
  router.send({id, frames.header, frames.payload});
}

FakeNode::FakeNode(Handle handle) : router_(context_, ZMQ_ROUTER) {
  router_.set(ZMQ_LINGER, 0);
  endpoint_ = bound(router_);
  thread_ = beside([this, handle = std::move(handle)](const std::stop_token& stop) {
    const DecodeLimits limits{.max_payload_bytes = 1 << 20, .max_classes = 7, .max_exits = 3};
    std::vector<Bytes> parts;
    std::size_t count = 0;
    while (!stop.stop_requested()) {
      wait_readable({{.socket = router_.get()}}, Clock::now() + std::chrono::milliseconds(20));
      while (router_.receive(parts, 3, count)) {
        const auto decoded = decode(parts[1], parts[2], limits);
        handle(std::get<Message>(decoded), parts[1], Caller{router_, parts[0]});
      }
    }
  });
}

std::string bound(ZmqSocket& socket) {
  REQUIRE(zmq_bind(socket.get(), kAnyPort) == 0);
  char text[64];
  std::size_t size = sizeof text;
  REQUIRE(zmq_getsockopt(socket.get(), ZMQ_LAST_ENDPOINT, text, &size) == 0);
  return text;
}

}  // namespace offramp::test
