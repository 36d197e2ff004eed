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

bool FormChoice::try_out(Form form, Clock::duration budget, Clock::time_point now) {
  Record& record = of(form);
  const bool lately = record.last != Clock::time_point::min() && now - record.last < kStale;
  if (lately || (record.known && record.time >= budget)) return false;
  record.last = now;
  return true;
}

Form FormChoice::choose(Clock::duration budget, Clock::time_point now) {
  // The smaller one first: on a slow link it is the one that arrives.
  for (const Form form : {Form::kPicture, Form::kTensor})
    if (try_out(form, budget, now)) return form;
  const Record &picture = of(Form::kPicture), &tensor = of(Form::kTensor);
  if (!picture.known || !tensor.known) return tensor.known ? Form::kTensor : Form::kPicture;
  return picture.time < tensor.time ? Form::kPicture : Form::kTensor;
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
