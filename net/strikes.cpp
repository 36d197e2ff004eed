#include "net/strikes.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr int kOut = 3;
constexpr std::chrono::minutes kMemory{1};
constexpr std::size_t kMaxRecords = 4096;

}  // namespace

bool Strikes::strike(const std::string& connection, Clock::time_point now) {
  if (records_.size() >= kMaxRecords && !records_.contains(connection)) {
    std::erase_if(records_, [now](const auto& each) { return now - each.second.last >= kMemory; });
    if (records_.size() >= kMaxRecords)
      records_.erase(std::ranges::min_element(records_, {},
                                              [](const auto& each) { return each.second.last; }));
  }
  Record& record = records_[connection];
  if (now - record.last >= kMemory) record.count = 0;
  record.last = now;
  return ++record.count == kOut;
}

bool Strikes::out(const std::string& connection, Clock::time_point now) const {
  if (records_.empty()) return false;
  const auto found = records_.find(connection);
  return found != records_.end() && found->second.count >= kOut &&
         now - found->second.last < kMemory;
}

}  // namespace offramp
