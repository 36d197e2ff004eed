#include "net/cut_choice.h"

#include <algorithm>

namespace offramp {
namespace {

constexpr Cut kCuts[] = {Cut::kTensor, Cut::kPicture, Cut::kAuto};

// A form that was not sent for so long may have become the better one.
constexpr std::chrono::seconds kStale{10};

}  // namespace

const char* cut_name(Cut cut) {
  switch (cut) {
    case Cut::kTensor:
      return "tensor";
    case Cut::kPicture:
      return "picture";
    case Cut::kAuto:
      return "auto";
  }
  return "unknown";
}

std::optional<Cut> cut_named(std::string_view name) {
  for (const Cut cut : kCuts)
    if (name == cut_name(cut)) return cut;
  return {};
}

Form FormChoice::choose(Clock::duration budget, Clock::time_point now) const {
  const Record &picture = of(Form::kPicture), &tensor = of(Form::kTensor);
  // The smaller one first: on a slow link it is the one that arrives.
  if (!picture.known) return Form::kPicture;
  if (!tensor.known) return Form::kTensor;
  const Form better = picture.time < tensor.time ? Form::kPicture : Form::kTensor;
  const Form other = better == Form::kPicture ? Form::kTensor : Form::kPicture;
  const bool try_other = now - of(other).last >= kStale && of(other).time < budget;
  return try_other ? other : better;
}

// TCP's smoothing (RFC 6298): an eighth of each new sample.
void FormChoice::answered(Form form, Clock::duration time, Clock::time_point now) {
  Record& record = of(form);
  record.time = record.known ? (7 * record.time + time) / 8 : time;
  record.known = true;
  record.last = now;
}

void FormChoice::late(Form form, Clock::duration time, Clock::time_point now) {
  Record& record = of(form);
  record.time = record.known ? std::max(record.time, time) : time;
  record.known = true;
  record.last = now;
}

}  // namespace offramp
