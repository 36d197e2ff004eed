#include "tests/chaos_proxy/flow.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace offramp::chaos {
namespace {

// A slow link has little memory: what waits there is late.
constexpr std::size_t kMostWaiting = 4 << 20;
constexpr std::size_t kMostWaitingAtRate = 64 << 10;

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

}  // namespace

std::size_t Allowance::at(Clock::time_point now, double rate) {
  if (rate <= 0.0) {
    tokens_ = 0.0;
    filled_ = now;
    return std::numeric_limits<std::size_t>::max();
  }
  // At most what 20 ms let through may come at once.
  const double most = std::max(kGrain, rate * 0.02);
  tokens_ = std::min(most, tokens_ + rate * std::chrono::duration<double>(now - filled_).count());
  filled_ = now;
  return tokens_ < kGrain ? 0 : static_cast<std::size_t>(tokens_);
}

Clock::time_point Allowance::again(Clock::time_point now, double rate) const {
  return now + seconds(std::max(0.0, kGrain - tokens_) / rate) + std::chrono::microseconds(1);
}

void Flow::take(std::span<const char> bytes, Clock::time_point now, const Settings& settings) {
  if (settings.blackhole) {
    hole_ = true;
    return;
  }
  if (hole_) return;  // what comes after a hole is no stream
  Clock::duration delay = settings.delay;
  if (settings.jitter.count() > 0) {
    std::uniform_int_distribution<std::int64_t> more(0, settings.jitter.count());
    delay += std::chrono::microseconds(more(random_));
  }
  last_due_ = std::max(last_due_, now + delay);
  chunks_.push_back({last_due_, {bytes.begin(), bytes.end()}, 0});
  waiting_ += bytes.size();
  if (settings.corrupt > 0.0) corrupt(chunks_.back().bytes, settings.corrupt);
}

void Flow::corrupt(std::vector<char>& bytes, double probability) {
  std::geometric_distribution<std::size_t> untouched(std::min(probability, 1.0 - 1e-12));
  std::uniform_int_distribution<int> flip(1, 255);
  if (std::exchange(probability_, probability) != probability) untouched_ = untouched(flips_);
  for (; untouched_ < bytes.size(); untouched_ += 1 + untouched(flips_)) {
    bytes[untouched_] = static_cast<char>(bytes[untouched_] ^ flip(flips_));
    ++corrupted_;
  }
  untouched_ -= bytes.size();
}

void Flow::lose() {
  hole_ = hole_ || !chunks_.empty();
  chunks_.clear();
  waiting_ = 0;
}

bool Flow::wants_more(const Settings& settings) const {
  if (ended_ || settings.hold) return false;
  return waiting_ < (settings.rate > 0.0 ? kMostWaitingAtRate : kMostWaiting);
}

std::span<const char> Flow::ready(Clock::time_point now, std::size_t allowance) const {
  if (chunks_.empty() || chunks_.front().due > now) return {};
  const Chunk& chunk = chunks_.front();
  const std::span<const char> rest = std::span(chunk.bytes).subspan(chunk.sent);
  return rest.first(std::min(rest.size(), allowance));
}

void Flow::sent(std::size_t bytes) {
  waiting_ -= bytes;
  Chunk& chunk = chunks_.front();
  chunk.sent += bytes;
  if (chunk.sent == chunk.bytes.size()) chunks_.pop_front();
}

Clock::time_point Flow::due() const {
  return chunks_.empty() ? Clock::time_point::max() : chunks_.front().due;
}

}  // namespace offramp::chaos
