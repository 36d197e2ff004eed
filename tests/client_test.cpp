// net/client.h and net/client_c.h: several pictures under way, callbacks, what is refused and how.
#include "net/client.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/cascade.h"
#include "net/client_c.h"
#include "net/node.h"
#include "tests/test_files.h"
#include "tests/test_wait.h"

namespace offramp {
namespace {

using std::chrono::seconds;

// The default model of the tests, whose first exit answers nothing when `thresholds` is 0: then the
// device asks a next tier that is not there.
struct Small {
  testing::TempDir folder;
  std::string model = folder.write("small.safetensors", testing::small_model().signed_file());
  testing::Bytes picture = testing::encode_png(testing::random_picture(8, 8, 3));

  ClientOptions options() const { return {.model = model}; }
  /// All pictures wait for `deadline`.
  ClientOptions silent_next(std::chrono::milliseconds deadline) const {
    return {.model = model,
            .next = {"ipc://" + (folder.path() / "nobody").string()},
            .thresholds = {0.0f},
            .deadline = deadline,
            .connect_grace = deadline};
  }
};

ClientCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ClientError& error) {
    CHECK(std::string(error.what()).find("wanted") != std::string::npos);
    return error.code();
  }
  return ClientCode::kOk;
}

}  // namespace

TEST_CASE("client: pixels and files of one picture have one answer") {
  const Small small;
  Client client(small.options());
  CHECK(client.classes() == std::vector<std::string>{"cat", "dog", "owl"});
  const Picture picture = testing::random_picture(8, 8, 3);
  const ClientResult file = client.classify(small.picture);
  const ClientResult pixels = client.classify_pixels(picture.rgb, 8, 8);
  CHECK(file.label == pixels.label);
  CHECK(file.probability == pixels.probability);
  CHECK(file.entropy == pixels.entropy);
  CHECK(file.class_name == client.classes().at(static_cast<std::size_t>(file.label)));
  CHECK(file.tier == "device");
  CHECK(file.probabilities.size() == 3);
  CHECK(file.hops.size() == 1);
}

TEST_CASE("client: a target of the model is chosen by its name") {
  const Small small;
  testing::TestModel model = testing::small_model();
  model.metadata["offramp.targets"] = R"([
    {"name": "0", "points": 0, "confidence": 0.9,
     "rules": [{"criterion": "entropy", "threshold": 0, "temperature": 1},
               {"criterion": "entropy", "temperature": 1}],
     "heldout": {"pictures": 9, "loss": 0, "shares": [0, 1], "cost": 1}},
    {"name": "5", "points": 5, "confidence": 0.9,
     "rules": [{"criterion": "entropy", "threshold": 1, "temperature": 1},
               {"criterion": "entropy", "temperature": 1}],
     "heldout": {"pictures": 9, "loss": 1, "shares": [1, 0], "cost": 0.5}}])";
  ClientOptions options = small.options();
  options.model = small.folder.write("targets.safetensors", model.signed_file());
  for (const bool sure : {false, true}) {
    options.target = sure ? "5" : "0";
    Client client(options);
    CHECK(client.classify(small.picture).status == (sure ? "ok" : "no next tier"));
  }
  options.target = "0.3";
  CHECK(code_of([&] { const Client client(options); }) == ClientCode::kUsage);
  options.target = "5";
  options.thresholds = {0.1f};
  CHECK(code_of([&] { const Client client(options); }) == ClientCode::kUsage);
}

TEST_CASE("client: without a next tier an unsure device says so") {
  const Small small;
  ClientOptions options = small.options();
  options.thresholds = {0.0f};
  Client client(options);
  const ClientResult result = client.classify(small.picture);
  CHECK(result.status == "no next tier");
  CHECK(result.degraded);
  CHECK(result.exit_name == "first");
}

TEST_CASE("client: an absent next tier leaves the device's answer within the deadline") {
  const Small small;
  ClientOptions options = small.silent_next(std::chrono::milliseconds(100));
  options.connect_grace = seconds(60);
  Client client(options);
  const ClientResult result = client.classify(small.picture);
  CHECK(result.status == "disconnected");
  CHECK(result.total_us < 10'000'000);
}

TEST_CASE("client: pictures under way at a next tier") {
  const Small small;
  const Model model = load_model(small.model);
  const std::vector<Stage> stages = make_stages(model, std::vector<float>{0.0f}, PlanOptions{});
  const std::string listen = "ipc://" + (small.folder.path() / "edge").string();
  ClientOptions options = small.silent_next(seconds(60));
  options.next = {listen};
  SUBCASE("that runs the same model") {
    const Node node(stages, model.id, {.listen = listen}, nullptr, Log{});
    Client client(options);
    std::vector<ClientTicket> tickets;
    for (int i = 0; i < 20; ++i) tickets.push_back(client.submit(small.picture));
    for (const ClientTicket ticket : tickets) {
      const auto outcome = client.wait(ticket, seconds(60));
      REQUIRE(outcome);
      CHECK(outcome->result.status == "ok");
      CHECK(outcome->result.tier == "edge");
      CHECK(outcome->result.exit_name == "last");
      CHECK(outcome->result.hops.size() == 2);
      CHECK(outcome->result.sent_bytes > kFixedHeaderBytes);
    }
  }
  SUBCASE("that runs another one") {
    ModelId other = model.id;
    other[0] ^= 1;
    const Node node(stages, other, {.listen = listen}, nullptr, Log{});
    Client client(options);
    const ClientTicket ticket = client.submit(small.picture);
    const auto outcome = client.wait(ticket, seconds(60));
    REQUIRE(outcome);
    CHECK(outcome->code == ClientCode::kBadModel);
    CHECK(outcome->message.find("wanted model") != std::string::npos);
    // Nobody was told again, and it is still so.
    const auto second = client.wait(client.submit(small.picture), seconds(20));
    REQUIRE(second);
    CHECK(second->code == ClientCode::kBadModel);
  }
}

TEST_CASE("client: each of many pictures from many threads has one outcome") {
  const Small small;
  ClientOptions options = small.options();
  options.queue = 1000;
  Client client(options);
  std::atomic<int> called{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.push_back(testing::beside([&] {
      for (int i = 0; i < 25; ++i) {
        client.submit(small.picture, [&](const ClientOutcome& outcome) {
          called += outcome.code == ClientCode::kOk ? 1 : 0;
        });
        client.submit(small.picture);
      }
    }));
  }
  threads.clear();
  std::set<ClientTicket> tickets;
  while (const auto outcome = client.wait_any(seconds(60))) tickets.insert(outcome->ticket);
  CHECK(tickets.size() == 100);
  // Those with a callback are taken in turn with the others.
  client.classify(small.picture);
  CHECK(called == 100);
}

TEST_CASE("client: a ticket is answered once") {
  const Small small;
  Client client(small.options());
  const ClientTicket ticket = client.submit(small.picture);
  CHECK(client.wait(ticket, seconds(60))->ticket == ticket);
  CHECK(code_of([&] { client.wait(ticket, seconds(60)); }) == ClientCode::kUsage);
  CHECK(code_of([&] { client.wait(ticket + 1, seconds(0)); }) == ClientCode::kUsage);
  CHECK_FALSE(client.wait_any(seconds(60)));
}

TEST_CASE("client: a full queue is told, and what is under way at the end is waited for") {
  const Small small;
  ClientOptions options = small.silent_next(seconds(3));
  options.queue = 2;
  std::atomic<int> called{0};
  {
    Client client(options);
    const auto count = [&](const ClientOutcome&) { ++called; };
    client.submit(small.picture, count);
    const ClientTicket second = client.submit(small.picture);
    CHECK_FALSE(client.wait(second, std::chrono::milliseconds(0)));
    CHECK(code_of([&] { client.submit(small.picture); }) == ClientCode::kBusy);
  }
  CHECK(called == 1);
}

TEST_CASE("client: who classifies gets the answer, whoever else takes what comes") {
  const Small small;
  Client client(small.options());
  int taken = 0;
  std::jthread taker = testing::beside([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) taken += client.wait_any(std::chrono::milliseconds(1)) ? 1 : 0;
  });
  for (int i = 0; i < 200; ++i) CHECK(client.classify(small.picture).label >= 0);
  taker.request_stop();
  taker.join();
  CHECK(taken == 0);
}

TEST_CASE("client: pictures that wait behind a hung tier are answered in time, too") {
  const Small small;
  const Model model = load_model(small.model);
  const std::vector<Stage> stages = make_stages(model, std::vector<float>{0.0f}, PlanOptions{});
  const std::string listen = "ipc://" + (small.folder.path() / "edge").string();
  testing::HeldWork work;
  NodeOptions hung{.listen = listen};
  hung.before_compute = [&] { work.wait(); };
  const Node node(stages, model.id, hung, nullptr, Log{});
  ClientOptions options = small.silent_next(seconds(1));
  options.next = {listen};
  options.window = 4;
  options.queue = 1000;
  {
    Client client(options);
    for (int i = 0; i < 500; ++i) client.submit(small.picture);
    std::map<std::string, int> statuses;
    while (const auto outcome = client.wait_any(seconds(60))) {
      ++statuses[outcome->result.status];
      // All of them before the deadline of the last: the time to run 500 is kept for them.
      CHECK(outcome->result.total_us < 2'000'000);
    }
    CHECK(statuses["overloaded"] > 0);
    CHECK(statuses["overloaded"] + statuses["late"] == 500);
  }
  work.hold = false;
}

TEST_CASE("client: what is refused, and as what") {
  const Small small;
  const auto opened = [&](auto change) {
    ClientOptions options = small.options();
    change(options);
    return code_of([&] { const Client client(options); });
  };
  using enum ClientCode;
  CHECK(opened([](ClientOptions& o) { o.model = "/nowhere"; }) == kMissingInput);
  CHECK(opened([](ClientOptions& o) { o.window = 0; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.queue = 0; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.threads = 0; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.thresholds = {2.0f}; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.target = "0.3"; }) == kUsage);  // there are none
  CHECK(opened([](ClientOptions& o) { o.audit = 1.5; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.deadline = seconds(0); }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.deadline = std::chrono::hours(25); }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.connect_grace = std::chrono::milliseconds::max(); }) ==
        kUsage);
  CHECK(opened([](ClientOptions& o) {
          o.next = {"ipc:///tmp/a"};
          o.dtype = "f64";
        }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.next = {"127.0.0.1:1"}; }) == kUsage);
  CHECK(opened([](ClientOptions& o) { o.next = {"127.0.0.1:1", "127.0.0.1:2"}; }) == kUsage);
  CHECK(opened([](ClientOptions& o) {
          o.next = {"127.0.0.1:1"};
          o.keys = "/nowhere";
        }) == kMissingInput);
  Client client(small.options());
  const std::vector<std::uint8_t> bytes(12);
  CHECK(code_of([&] { client.submit(bytes); }) == kBadData);
  CHECK(code_of([&] { client.submit_pixels(bytes, 2, 3); }) == kUsage);
  CHECK(code_of([&] { client.submit_pixels(bytes, -2, -2); }) == kUsage);
  CHECK(code_of([&] { client.submit_pixels(bytes, 20000, 20000); }) == kUsage);
  CHECK(client.classify_pixels(bytes, 2, 2).label >= 0);
}

TEST_CASE("client: a callback that throws costs no other picture its answer") {
  const Small small;
  ClientOptions options = small.options();
  std::atomic<int> told{0}, answered{0};
  options.log = [&](const std::string& line) {
    if (line.find("the callback of ticket ") != std::string::npos) ++told;
  };
  Client client(options);
  for (int i = 0; i < 6; ++i) {
    client.submit(small.picture, [&, i](const ClientOutcome& outcome) {
      CHECK(outcome.code == ClientCode::kOk);
      if (i % 3 == 0) throw std::runtime_error("slip");
      if (i % 3 == 1) throw 7;
      ++answered;
    });
  }
  CHECK(testing::eventually([&] { return answered == 2 && told == 4; }));
  CHECK_NOTHROW(client.classify(small.picture));
}

TEST_CASE("client in C: answers, callbacks and errors") {
  const Small small;
  offramp_options options{};
  options.size = sizeof options;
  options.model = small.model.c_str();
  offramp_client* client = nullptr;
  REQUIRE(offramp_open(&options, &client) == OFFRAMP_OK);

  offramp_result result{};
  result.size = sizeof result;
  REQUIRE(offramp_classify(client, small.picture.data(), small.picture.size(), &result) ==
          OFFRAMP_OK);
  CHECK(std::string(result.tier) == "device");
  CHECK(std::set<std::string>{"cat", "dog", "owl"}.contains(result.class_name));
  CHECK(result.hop_count == 1);

  std::uint64_t ticket = 0;
  REQUIRE(offramp_submit(client, small.picture.data(), small.picture.size(), nullptr, nullptr,
                         &ticket) == OFFRAMP_OK);
  REQUIRE(offramp_wait(client, ticket, 60000, &result) == OFFRAMP_OK);
  CHECK(result.ticket == ticket);
  CHECK(result.error == OFFRAMP_OK);
  CHECK(offramp_wait_any(client, 0, &result) == OFFRAMP_TIMEOUT);

  std::atomic<int> label{-1};
  const auto note = [](const offramp_result* of, void* user) {
    *static_cast<std::atomic<int>*>(user) = of->label;
  };
  REQUIRE(offramp_submit(client, small.picture.data(), small.picture.size(), note, &label,
                         nullptr) == OFFRAMP_OK);
  // Pictures are taken in turn.
  REQUIRE(offramp_classify(client, small.picture.data(), small.picture.size(), &result) ==
          OFFRAMP_OK);
  CHECK(label == result.label);

  CHECK(offramp_classify(client, "no picture", 10, &result) == OFFRAMP_BAD_DATA);
  CHECK(std::string(offramp_last_error()).find("wanted") != std::string::npos);
  CHECK(offramp_classify(client, nullptr, 10, &result) == OFFRAMP_USAGE);
  CHECK(offramp_classify_pixels(client, small.picture.data(), -1, -1, &result) == OFFRAMP_USAGE);
  CHECK(offramp_classify(nullptr, "", 0, &result) == OFFRAMP_USAGE);
  CHECK(offramp_wait(client, 99, 0, &result) == OFFRAMP_USAGE);
  offramp_close(client);
  offramp_close(nullptr);

  options.model = nullptr;
  CHECK(offramp_open(&options, &client) != OFFRAMP_OK);
  CHECK(client == nullptr);
  CHECK(offramp_open(nullptr, &client) == OFFRAMP_USAGE);
}

TEST_CASE("client in C: a caller with a shorter struct gets as much as it knows") {
  const Small small;
  offramp_options options{};
  // As of a version that ended here: what stands behind it is not looked at.
  options.size = offsetof(offramp_options, keys);
  options.model = small.model.c_str();
  options.window = -5;
  offramp_client* client = nullptr;
  REQUIRE(offramp_open(&options, &client) == OFFRAMP_OK);
  offramp_result result{};
  std::memset(&result, 0x55, sizeof result);
  result.size = offsetof(offramp_result, entropy);
  REQUIRE(offramp_classify(client, small.picture.data(), small.picture.size(), &result) ==
          OFFRAMP_OK);
  CHECK(result.size == offsetof(offramp_result, entropy));
  CHECK(result.label >= 0);
  CHECK(result.exit == 0x55555555);
  result.size = 1;
  CHECK(offramp_classify(client, small.picture.data(), small.picture.size(), &result) ==
        OFFRAMP_USAGE);
  offramp_close(client);
}

}  // namespace offramp
