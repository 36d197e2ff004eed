// A batch gives each request what it would have got alone, wherever it begins and ends.
#include "net/batch_runner.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "tests/test_nodes.h"

namespace offramp::test {
namespace {

constexpr int kBatch = 8;

// The picture as it is at `cut`, whatever the exits before it say.
std::vector<float> at_cut(const SmallCascade& cascade, std::size_t picture, std::size_t cut) {
  View view = cascade.picture(picture);
  std::vector<float> values(view.data, view.data + view.elements());
  for (std::size_t i = 0; i < cut; ++i) {
    StageMemory memory = cascade.stages()[i].make_memory();
    const Stage::Outcome outcome =
        cascade.stages()[i].step({.data = values.data(), .batch = 1, .shape = view.shape}, memory);
    view = outcome.carry;
    values.assign(view.data, view.data + view.elements());
  }
  return values;
}

Job job_at(const SmallCascade& cascade, std::size_t picture, std::uint8_t cut) {
  const std::vector<float> values = at_cut(cascade, picture, cut);
  Job job{.peer = {},
          .request = make_request_id(cut, picture),
          .cut = cut,
          .arrived = {},
          .answer_by = {},
          .input = Buffer(values.size())};
  std::ranges::copy(values, job.input.data());
  return job;
}

void check_same(const Done& found, const Done& wanted) {
  CHECK(found.job.request == wanted.job.request);
  CHECK(found.fate == Fate::kComputed);
  CHECK(found.decision == wanted.decision);
  CHECK(found.probabilities == wanted.probabilities);
  CHECK(found.answers == wanted.answers);
  CHECK(found.carry == wanted.carry);
}

}  // namespace

TEST_CASE("batch: each request gets what it would have got alone") {
  const SmallCascade cascade(SmallCascade::Thresholds::kMixed, 60, kBatch);
  ThreadPool pool(1);
  std::mt19937 random(3);
  std::size_t decided = 0, undecided = 0, mixed = 0;
  for (const int count : {1, 2}) {
    for (const DType dtype : {DType::kF32, DType::kU8}) {
      BatchRunner batches(cascade.stages(), 1, 1, count, {dtype, Codec::kRaw}, pool);
      BatchRunner alone(cascade.stages(), 1, 1, count, {dtype, Codec::kRaw}, pool);
      for (int round = 0; round < 40; ++round) {
        std::vector<Job> jobs, twins;
        const std::size_t size = 1 + random() % kBatch;
        for (std::size_t i = 0; i < size; ++i) {
          const std::size_t picture = random() % cascade.size();
          const auto cut = static_cast<std::uint8_t>(1 + static_cast<int>(random()) % count);
          jobs.push_back(job_at(cascade, picture, cut));
          twins.push_back(job_at(cascade, picture, cut));
        }
        const auto begins = [](const Job& job) { return job.cut == 2; };
        if (std::ranges::any_of(jobs, begins) && !std::ranges::all_of(jobs, begins)) ++mixed;
        const std::vector<Done> done = batches.run(std::move(jobs));
        REQUIRE(done.size() == size);
        CHECK(done[0].batch == size);
        for (std::size_t i = 0; i < size; ++i) {
          std::vector<Job> one;
          one.push_back(std::move(twins[i]));
          check_same(done[i], alone.run(std::move(one))[0]);
          if (i > 0) CHECK(done[i].batch == 0);
          ++(done[i].answers ? decided : undecided);
        }
      }
    }
  }
  CHECK(decided > 50);
  CHECK(undecided > 50);
  CHECK(mixed > 10);
}

TEST_CASE("batch: its answers are the cascade's") {
  const SmallCascade cascade(SmallCascade::Thresholds::kMixed, 60, kBatch);
  ThreadPool pool(1);
  BatchRunner batches(cascade.stages(), 1, 1, 2, {}, pool);
  std::vector<std::size_t> pictures;
  for (std::size_t i = 0; i < cascade.size(); ++i)
    if (cascade.expected()[i].exit > 0) pictures.push_back(i);
  pictures.resize(pictures.size() / kBatch * kBatch);
  REQUIRE_FALSE(pictures.empty());
  for (std::size_t first = 0; first < pictures.size(); first += kBatch) {
    std::vector<Job> jobs;
    for (std::size_t i = first; i < first + kBatch; ++i)
      jobs.push_back(job_at(cascade, pictures[i], 1));
    const std::vector<Done> done = batches.run(std::move(jobs));
    for (std::size_t i = 0; i < kBatch; ++i)
      CHECK(done[i].decision == cascade.expected()[pictures[first + i]]);
  }
}

}  // namespace offramp::test
