// Pictures on the wire in place of tensors: the same answers bit for bit, only to nodes that take
// them, and the choice between both forms.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/cascade.h"
#include "net/cut_choice.h"
#include "net/device.h"
#include "net/node.h"
#include "net/zmq_channel.h"
#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Thresholds = SmallCascade::Thresholds;

constexpr std::size_t kPictures = 40;

// Pictures of a network, and what run_cascade says of them.
struct Album {
  explicit Album(const SmallCascade& cascade) {
    const Shape shape = cascade.stages()[0].plan().input_shape();
    how = {.input = shape, .mean = {0.49f, 0.48f, 0.45f}, .std = {0.25f, 0.24f, 0.26f}};
    const PixelTable table(how);
    std::mt19937 random(7);
    CascadeMemory memory = make_cascade_memory(cascade.stages());
    for (std::size_t i = 0; i < kPictures; ++i) {
      std::vector<std::uint8_t> rgb(shape.elements());
      for (std::uint8_t& byte : rgb) byte = static_cast<std::uint8_t>(random());
      std::vector<float>& input = inputs.emplace_back(rgb.size());
      table.normalise(rgb, input.data());
      run_cascade(cascade.stages(), {.data = input.data(), .batch = 1, .shape = shape}, memory,
                  {&expected.emplace_back(), 1});
    }
  }

  Device::Source source() const {
    return [this](std::size_t index, std::span<float> input) {
      std::ranges::copy(inputs[index], input.begin());
      return true;
    };
  }

  Preprocess how;
  std::vector<std::vector<float>> inputs;
  std::vector<Decision> expected;
};

std::vector<Outcome> run(Device& device, const Album& album) {
  std::vector<Outcome> outcomes(kPictures);
  device.run(kPictures, album.source(),
             [&](std::size_t index, const Outcome& outcome) { outcomes[index] = outcome; });
  return outcomes;
}

DeviceOptions patient(const Album& album, Cut cut) {
  DeviceOptions options{.deadline = seconds(60), .connect_grace = seconds(10)};
  options.cut = cut;
  options.pictures = album.how;
  return options;
}

NodeOptions tier(Tier tier, const Album& album) {
  const bool edge = tier == Tier::kEdge;
  NodeOptions options{.tier = tier, .listen = "tcp://127.0.0.1:*"};
  options.first_stage = edge ? 1 : 2;
  options.pictures = album.how;
  return options;
}

}  // namespace

TEST_CASE("pictures: nodes give the cascade's answers of them, to the bit") {
  for (const int batch : {1, 8}) {
    const SmallCascade cascade(Thresholds::kNone, 60, batch);
    const Album album(cascade);
    const Node cloud(cascade.stages(), cascade.id(), tier(Tier::kCloud, album), nullptr, {});
    std::atomic<bool> edge_up{false};
    const Node edge(cascade.stages(), cascade.id(), tier(Tier::kEdge, album),
                    to(cascade, cloud.endpoint(), 2), [&](LogLevel, const std::string& line) {
                      if (line.starts_with("next tier connected")) edge_up = true;
                    });
    const auto until = Clock::now() + seconds(20);
    while (!edge_up && Clock::now() < until) std::this_thread::sleep_for(milliseconds(2));
    REQUIRE(edge_up);
    for (const Codec codec : {Codec::kRaw, Codec::kLz4}) {
      DeviceOptions options = patient(album, Cut::kPicture);
      options.format = {DType::kU8, codec};
      Device device(cascade.stages(), cascade.id(), options, to(cascade, edge.endpoint(), 1), {});
      const std::vector<Outcome> outcomes = run(device, album);
      for (std::size_t i = 0; i < kPictures; ++i) {
        const Outcome& outcome = outcomes[i];
        CHECK(outcome.sent_picture);
        CHECK(outcome.degraded == Reason::kNone);
        CHECK(outcome.tier == Tier::kCloud);
        CHECK(outcome.decision == album.expected[i]);
        CHECK(outcome.hops[0].sent_bytes <= kFixedHeaderBytes + album.inputs[i].size());
      }
    }
  }
}

TEST_CASE("pictures: the exits of earlier tiers are not asked again") {
  const SmallCascade unsure(Thresholds::kNone), sure(Thresholds::kAll);
  REQUIRE(unsure.id() == sure.id());
  const Album album(unsure);
  const Node edge(sure.stages(), sure.id(), tier(Tier::kEdge, album), nullptr, {});
  Device device(unsure.stages(), unsure.id(), patient(album, Cut::kPicture),
                to(unsure, edge.endpoint(), 1), {});
  for (const Outcome& outcome : run(device, album)) {
    CHECK(outcome.degraded == Reason::kNone);
    CHECK(outcome.decision.exit == 1);
  }
}

TEST_CASE("pictures: a node that takes none gets tensors") {
  const SmallCascade cascade(Thresholds::kNone);
  const Album album(cascade);
  NodeOptions options = tier(Tier::kEdge, album);
  options.pictures.reset();
  const Node edge(cascade.stages(), cascade.id(), options, nullptr, {});
  for (const Cut cut : {Cut::kPicture, Cut::kAuto}) {
    Device device(cascade.stages(), cascade.id(), patient(album, cut),
                  to(cascade, edge.endpoint(), 1), {});
    for (const Outcome& outcome : run(device, album)) {
      CHECK_FALSE(outcome.sent_picture);
      CHECK(outcome.decision.exit == 1);
    }
  }
}

TEST_CASE("pictures: what no picture has made is sent as a tensor") {
  const SmallCascade cascade(Thresholds::kNone);
  const Album album(cascade);
  const Node edge(cascade.stages(), cascade.id(), tier(Tier::kEdge, album), nullptr, {});
  Device device(cascade.stages(), cascade.id(), patient(album, Cut::kPicture),
                to(cascade, edge.endpoint(), 1), {});
  for (const Outcome& outcome : run_all(device, cascade)) {
    CHECK_FALSE(outcome.sent_picture);
    CHECK(outcome.decision.exit == 1);
  }
}

TEST_CASE("pictures: with auto both forms are tried, and all answers stay right") {
  const SmallCascade cascade(Thresholds::kNone);
  const Album album(cascade);
  const Node edge(cascade.stages(), cascade.id(), tier(Tier::kEdge, album), nullptr, {});
  DeviceOptions options = patient(album, Cut::kAuto);
  options.window = 1;
  Device device(cascade.stages(), cascade.id(), options, to(cascade, edge.endpoint(), 1), {});
  std::size_t pictures = 0;
  for (const Outcome& outcome : run(device, album)) {
    pictures += outcome.sent_picture ? 1 : 0;
    CHECK(outcome.decision.exit == 1);
  }
  CHECK(pictures > 0);
  CHECK(pictures < kPictures);
}

TEST_CASE("pictures: a node refuses them with another shape, cut or dtype") {
  const SmallCascade cascade(Thresholds::kNone);
  const Album album(cascade);
  const Node edge(cascade.stages(), cascade.id(), tier(Tier::kEdge, album), nullptr, {});
  RawClient client(edge.endpoint());
  client.send(hello_of(cascade));
  const auto welcome = client.wait_for<Welcome>();
  REQUIRE(welcome);
  CHECK(welcome->pictures);
  Handoff good = handoff_of(cascade, 1);
  good.cut = 0;
  good.tensor =
      encode_pixels({.data = album.inputs[0].data(), .batch = 1, .shape = album.how.input},
                    PixelTable(album.how), Codec::kRaw)
          .value();
  client.send(good);
  CHECK(client.wait_for<Verdict>());
  const auto code_of = [&](const Handoff& handoff) {
    client.send(handoff);
    const auto fault = client.wait_for<Fault>();
    REQUIRE(fault);
    return fault->code;
  };
  Handoff bad = good;
  bad.cut = 1;
  CHECK(code_of(bad) == FaultCode::kModelMismatch);
  bad = good;
  bad.tensor.dtype = DType::kU8;
  CHECK(code_of(bad) == FaultCode::kModelMismatch);
  bad = good;
  bad.tensor.shape.width += 1;
  CHECK(code_of(bad) == FaultCode::kModelMismatch);
  bad = good;
  bad.tensor.payload.pop_back();
  bad.tensor.raw_bytes -= 1;
  CHECK(code_of(bad) == FaultCode::kBadTensor);
  bad = handoff_of(cascade, 1);
  bad.tensor.dtype = DType::kPixels;
  CHECK(code_of(bad) == FaultCode::kBadTensor);
}

TEST_CASE("pictures: the form that is answered sooner is sent, the other tried now and then") {
  FormChoice forms;
  Clock::time_point now{seconds(100)};
  const Clock::duration budget = milliseconds(500);
  CHECK(forms.choose(budget, now) == Form::kPicture);
  CHECK(forms.choose(budget, now) == Form::kTensor);
  CHECK(forms.choose(budget, now) == Form::kPicture);
  forms.answered(Form::kPicture, milliseconds(30), now);
  forms.answered(Form::kTensor, milliseconds(80), now);
  CHECK(forms.choose(budget, now) == Form::kPicture);
  SUBCASE("the better one may change") {
    for (int i = 0; i < 20; ++i) forms.answered(Form::kPicture, milliseconds(200), now);
    CHECK(forms.choose(budget, now) == Form::kTensor);
  }
  SUBCASE("what was not sent for long is tried when it is likely to be in time") {
    now += seconds(11);
    forms.answered(Form::kPicture, milliseconds(30), now);
    CHECK(forms.choose(milliseconds(79), now) == Form::kPicture);
    CHECK(forms.choose(budget, now) == Form::kTensor);
    // Once, and not with all that come before its answer.
    CHECK(forms.choose(budget, now) == Form::kPicture);
    forms.answered(Form::kTensor, milliseconds(80), now);
    CHECK(forms.choose(budget, now) == Form::kPicture);
  }
  SUBCASE("what did not arrive takes longer than the time there was") {
    forms.late(Form::kPicture, milliseconds(400), now);
    CHECK(forms.choose(budget, now) == Form::kTensor);
    forms.late(Form::kTensor, milliseconds(500), now);
    CHECK(forms.choose(budget, now) == Form::kPicture);
  }
}

}  // namespace offramp::test
