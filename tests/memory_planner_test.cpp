#include "engine/memory_planner.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

using namespace offramp;

TEST_CASE("place: a chain needs room for two neighbours") {
  // Steps 0..3 each read their predecessor's tensor.
  const std::vector<Lifetime> chain{{0, 1, 160}, {1, 2, 160}, {2, 3, 160}, {3, 3, 160}};
  const Placement p = place(chain, 16);
  CHECK(p.floats == 320);
  CHECK(p.offsets[0] != p.offsets[1]);
  CHECK(p.offsets[0] == p.offsets[2]);
}

TEST_CASE("place: a skip keeps its place while two others pass") {
  // t0 lives through, t1 and t2 overlap each other: 64 + 32 + 32.
  const std::vector<Lifetime> block{{0, 3, 64}, {1, 2, 32}, {2, 3, 32}};
  CHECK(place(block, 16).floats == 128);
}

TEST_CASE("place: the gap a dead tensor leaves is used again") {
  // 128 | 96 | 80 | 64; the 96 is dead when the 48 comes.
  const std::vector<Lifetime> tensors{{0, 5, 128}, {0, 2, 96}, {0, 5, 80}, {0, 2, 64}, {3, 5, 48}};
  const Placement p = place(tensors, 16);
  CHECK(p.floats == 128 + 96 + 80 + 64);
  CHECK(p.offsets[4] == 128);
}

TEST_CASE("place: offsets are aligned and nothing that lives together overlaps") {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Lifetime> tensors(1 + random() % 30);
    std::size_t most = 0;
    for (Lifetime& t : tensors) {
      t.first = static_cast<int>(random() % 20);
      t.last = t.first + static_cast<int>(random() % 6);
      t.floats = random() % 1000;
    }
    const Placement p = place(tensors, 16);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      CHECK(p.offsets[i] % 16 == 0);
      CHECK(p.offsets[i] + tensors[i].floats <= p.floats);
      for (std::size_t j = 0; j < i; ++j) {
        const bool together =
            tensors[i].first <= tensors[j].last && tensors[j].first <= tensors[i].last;
        const bool apart = p.offsets[i] + tensors[i].floats <= p.offsets[j] ||
                           p.offsets[j] + tensors[j].floats <= p.offsets[i];
        CHECK((!together || apart || tensors[i].floats == 0 || tensors[j].floats == 0));
      }
    }
    for (int step = 0; step < 30; ++step) {
      std::size_t alive = 0;
      for (const Lifetime& t : tensors) alive += t.first <= step && step <= t.last ? t.floats : 0;
      most = std::max(most, alive);
    }
    CHECK(p.floats >= most);
  }
}
