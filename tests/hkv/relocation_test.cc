// File: relocation_test.cc
//
// Relocation against the greatest set of rows that fits: brute force over small tables, and tables
// filled to the last slot.
#include "csrc/hkv/relocation.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "csrc/common/errors.h"
#include "tests/common/expect.h"

ACCEL_PACKAGE("hkv");

namespace {

using hkv::kNoPosition;
using hkv::Layout;
using hkv::Relocation;

struct Table {
  explicit Table(uint64_t capacity)
      : layout(Layout::Of(capacity)),
        digests(uint64_t{layout.num_buckets} * hkv::kBucketSlots, hkv::kDisabled),
        pinned(digests.size(), 0),
        keys(digests.size()),
        scores(digests.size()) {
    for (uint32_t b = 0; b < layout.num_buckets; ++b) {
      std::fill_n(digests.begin() + b * hkv::kBucketSlots, layout.SlotsOf(b), hkv::kEmpty);
    }
  }
  hkv::Slots Slots() { return {layout, digests.data(), keys.data(), scores.data(), pinned.data()}; }
  // The scores of the rows, each where a lookup finds it.
  std::multiset<uint64_t> Stored() const {
    std::multiset<uint64_t> stored;
    for (uint64_t p = 0; p < digests.size(); ++p) {
      if (digests[p] < hkv::kFirstTag) continue;
      const hkv::Place place = layout.PlaceOf(keys[p]);
      const uint32_t bucket = static_cast<uint32_t>(p / hkv::kBucketSlots);
      EXPECT(digests[p] == place.tag);
      EXPECT(bucket == place.home || bucket == place.other);
      const uint64_t spill = uint64_t{place.home} * hkv::kBucketSlots + layout.spill_slot;
      EXPECT(bucket == place.home || digests[spill] != hkv::kEmpty);
      stored.insert(scores[p]);
    }
    return stored;
  }

  Layout layout;
  std::vector<uint8_t> digests, pinned;
  std::vector<uint64_t> keys, scores;
};

void Fill(uint64_t capacity, uint64_t rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  Table table(capacity);
  Relocation relocation(table.Slots());
  std::vector<uint64_t> scores;
  uint64_t left = 0, refused = 0;
  for (uint64_t i = 0; i < rows; ++i) {
    scores.push_back(random());
    const uint64_t at = relocation.Put(
        random(), scores.back(), [](uint64_t, uint64_t) {}, [&](uint64_t) { ++left; });
    refused += at == kNoPosition;
  }
  const auto stored = table.Stored();
  EXPECT(stored.size() == rows - left - refused);
  std::sort(scores.rbegin(), scores.rend());
  scores.resize(std::min(rows, capacity));
  // With many keys a bucket, any set that fits by number fits by buckets.
  EXPECT(stored == std::multiset<uint64_t>(scores.begin(), scores.end()));
}

void PinnedRowsStay() {
  std::mt19937_64 random(5);
  Table table(300);
  Relocation relocation(table.Slots());
  const auto nothing = [](auto...) {};
  std::vector<uint64_t> pinned;
  for (int i = 0; i < 20; ++i) {
    const uint64_t at = relocation.Put(random(), 0, nothing, nothing);
    table.pinned[at] = 1;
    pinned.push_back(at);
  }
  const std::vector<uint64_t> keys = table.keys;
  for (int i = 0; i < 2000; ++i) relocation.Put(random(), random(), nothing, nothing);
  for (uint64_t at : pinned) EXPECT(table.keys[at] == keys[at] && table.scores[at] == 0);
  EXPECT(table.Stored().size() == 300);
}

}  // namespace

int main() {
  for (uint64_t capacity : {1, 100, 128, 129, 300, 5000}) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      Fill(capacity, capacity, seed);
      Fill(capacity, capacity * 3, seed);
    }
  }
  PinnedRowsStay();
  return accel_test::Failures();
}
