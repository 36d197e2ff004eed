// No exception leaves this file.
#include "net/client_c.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "net/client.h"
#include "net/client_outcome.h"

struct offramp_client {  // NOLINT(readability-identifier-naming): C's name
  explicit offramp_client(const offramp::ClientOptions& options) : client(options) {}

  // One copy of each name for as long as the client lives: there are as many as exits and classes.
  const char* kept(const std::string& name) {
    const std::lock_guard lock(mutex);
    return names.insert(name).first->c_str();
  }

  std::mutex mutex;
  std::set<std::string> names;
  offramp::Client client;  ///< last: its thread calls back
};

namespace {

using offramp::ClientCode;
using offramp::ClientError;
using offramp::ClientOutcome;
using std::chrono::milliseconds;

std::string& last_error() {
  thread_local std::string line;
  return line;
}

int failed(int code, const char* line) noexcept {
  try {
    last_error() = line;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
  return code;
}

template <class Call>
int guarded(Call&& call) noexcept {
  try {
    return call();
  } catch (const ClientError& error) {
    return failed(static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    return failed(OFFRAMP_SYSTEM, error.what());
  }
}

int out_code(const ClientOutcome& outcome) { return static_cast<int>(outcome.code); }

void require(bool good, const char* line) {
  if (!good) throw ClientError(ClientCode::kUsage, line);
}

// A struct of a caller that was compiled with an earlier or a later version.
template <class Struct>
Struct known_part(const Struct* given, const char* line) {
  require(given != nullptr && given->size >= sizeof given->size, line);
  Struct known{};
  std::memcpy(&known, given, std::min(given->size, sizeof known));
  return known;
}

offramp::ClientOptions options_of(const offramp_options* given) {
  const offramp_options o = known_part(given, "client: wanted options with their size, found none");
  const auto text = [](const char* string) { return std::string(string ? string : ""); };
  offramp::ClientOptions options;
  options.model = text(o.model);
  if (o.next) options.next.emplace_back(o.next);
  options.keys = text(o.keys);
  options.dtype = text(o.dtype);
  options.lz4 = o.lz4 != 0;
  options.insecure = o.insecure != 0;
  if (o.deadline_ms) options.deadline = milliseconds(o.deadline_ms);
  if (o.connect_grace_ms) options.connect_grace = milliseconds(o.connect_grace_ms);
  if (o.window) options.window = o.window;
  if (o.queue) options.queue = o.queue;
  if (o.threads) options.threads = o.threads;
  if (o.thresholds) options.thresholds.assign(o.thresholds, o.thresholds + o.threshold_count);
  options.target = text(o.target);
  options.audit = o.audit;
  return options;
}

// Names that do not depend on the client.
const char* tier_of(const std::string& name) {
  for (const char* tier : {"device", "edge", "cloud"})
    if (name == tier) return tier;
  return "";
}

offramp_result result_of(offramp_client& client, const ClientOutcome& outcome) {
  offramp_result out{};
  out.ticket = outcome.ticket;
  out.error = out_code(outcome);
  if (outcome.code != ClientCode::kOk) return out;
  const offramp::ClientResult& result = outcome.result;
  out.label = result.label;
  out.class_name = client.kept(result.class_name);
  out.probability = result.probability;
  out.entropy = result.entropy;
  out.exit = result.exit;
  out.exit_name = client.kept(result.exit_name);
  out.tier = tier_of(result.tier);
  out.status = client.kept(result.status);
  out.degraded = result.degraded ? 1 : 0;
  out.sent_bytes = result.sent_bytes;
  out.wire_us = result.wire_us;
  out.total_us = result.total_us;
  out.hop_count = std::min<std::size_t>(result.hops.size(), OFFRAMP_MAX_HOPS);
  for (std::size_t i = 0; i < out.hop_count; ++i) {
    const offramp::ClientHop& hop = result.hops[i];
    out.hops[i] = {tier_of(hop.tier), hop.queue_us, hop.compute_us, hop.wait_us, hop.sent_bytes};
  }
  return out;
}

// As much of it as the caller knows.
void give(offramp_client& client, const ClientOutcome& outcome, offramp_result* to) {
  const std::size_t size = std::min(to->size, sizeof *to);
  offramp_result result = result_of(client, outcome);
  result.size = to->size;
  std::memcpy(to, &result, size);
  if (outcome.code != ClientCode::kOk) failed(out_code(outcome), outcome.message.c_str());
}

void check_client(const offramp_client* client) {
  require(client != nullptr, "client: wanted one that is open, found none");
}

void check_result(const offramp_result* result) {
  require(result != nullptr && result->size >= sizeof result->size,
          "client: wanted a result with its size, found none");
}

std::span<const std::uint8_t> bytes_of(const void* data, std::size_t size) {
  require(data != nullptr, "client: wanted a picture, found none");
  return {static_cast<const std::uint8_t*>(data), size};
}

std::span<const std::uint8_t> pixels_of(const std::uint8_t* rgb, int width, int height) {
  require(rgb != nullptr && width > 0 && height > 0, "client: wanted pixels, found none");
  return {rgb, static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3};
}

offramp::Client::Callback calling(offramp_client& client, offramp_callback callback, void* user) {
  if (callback == nullptr) return {};
  return [&client, callback, user](const ClientOutcome& outcome) {
    offramp_result result = result_of(client, outcome);
    result.size = sizeof result;
    if (outcome.code != ClientCode::kOk) failed(out_code(outcome), outcome.message.c_str());
    callback(&result, user);
  };
}

template <class Submit>
int classified(offramp_client& client, offramp_result* result, Submit submit) {
  const ClientOutcome outcome = offramp::outcome_of(std::move(submit));
  give(client, outcome, result);
  return out_code(outcome);
}

}  // namespace

extern "C" {

const char* offramp_version(void) { return OFFRAMP_VERSION; }

const char* offramp_last_error(void) { return last_error().c_str(); }

int offramp_open(const offramp_options* options, offramp_client** client) {
  return guarded([&] {
    require(client != nullptr, "client: wanted a place for it, found none");
    *client = nullptr;
    *client = new offramp_client(options_of(options));
    return OFFRAMP_OK;
  });
}

void offramp_close(offramp_client* client) { delete client; }

int offramp_classify(offramp_client* client, const void* file, size_t bytes,
                     offramp_result* result) {
  return guarded([&] {
    check_client(client);
    check_result(result);
    return classified(*client, result, [&](offramp::Client::Callback done) {
      client->client.submit(bytes_of(file, bytes), std::move(done));
    });
  });
}

int offramp_classify_pixels(offramp_client* client, const uint8_t* rgb, int width, int height,
                            offramp_result* result) {
  return guarded([&] {
    check_client(client);
    check_result(result);
    const auto pixels = pixels_of(rgb, width, height);
    return classified(*client, result, [&](offramp::Client::Callback done) {
      client->client.submit_pixels(pixels, width, height, std::move(done));
    });
  });
}

int offramp_submit(offramp_client* client, const void* file, size_t bytes,
                   offramp_callback callback, void* user, uint64_t* ticket) {
  return guarded([&] {
    check_client(client);
    const auto given =
        client->client.submit(bytes_of(file, bytes), calling(*client, callback, user));
    if (ticket != nullptr) *ticket = given;
    return OFFRAMP_OK;
  });
}

int offramp_submit_pixels(offramp_client* client, const uint8_t* rgb, int width, int height,
                          offramp_callback callback, void* user, uint64_t* ticket) {
  return guarded([&] {
    check_client(client);
    const auto pixels = pixels_of(rgb, width, height);
    const auto given =
        client->client.submit_pixels(pixels, width, height, calling(*client, callback, user));
    if (ticket != nullptr) *ticket = given;
    return OFFRAMP_OK;
  });
}

int offramp_wait(offramp_client* client, uint64_t ticket, uint32_t patience_ms,
                 offramp_result* result) {
  return guarded([&]() -> int {
    check_client(client);
    check_result(result);
    const auto outcome = client->client.wait(ticket, milliseconds(patience_ms));
    if (!outcome) return failed(OFFRAMP_TIMEOUT, "client: the outcome is not known yet");
    give(*client, *outcome, result);
    return OFFRAMP_OK;
  });
}

int offramp_wait_any(offramp_client* client, uint32_t patience_ms, offramp_result* result) {
  return guarded([&]() -> int {
    check_client(client);
    check_result(result);
    const auto outcome = client->client.wait_any(milliseconds(patience_ms));
    if (!outcome) return failed(OFFRAMP_TIMEOUT, "client: no outcome is known yet");
    give(*client, *outcome, result);
    return OFFRAMP_OK;
  });
}

}  // extern "C"
