// File: host_storage.h
//
// The arrays of the host table, laid out as the GPU table's (layout.h), and the search in them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "csrc/hkv/layout.h"
#include "csrc/hkv/relocation.h"
#include "csrc/hkv/row_moves.h"
#include "csrc/hkv/types.h"

namespace hkv {

// One set of arrays; growing makes another, which takes over the rows' memory.
struct Storage {
  Storage(uint64_t capacity, size_t row_bytes)
      : layout(Layout::Of(capacity)), row_bytes(row_bytes) {
    const uint64_t slots = static_cast<uint64_t>(layout.num_buckets) * kBucketSlots;
    digests.reset(new uint8_t[slots]);
    keys.reset(new uint64_t[slots]);
    scores.reset(new uint64_t[slots]);
    holders.resize(slots);
    pinned.resize(slots);
    given.resize(slots);
    locks.reset(new std::atomic<bool>[layout.num_buckets]);
    for (uint32_t b = 0; b < layout.num_buckets; ++b) locks[b].store(false);
    Clear();
  }

  void Clear() {
    for (uint32_t b = 0; b < layout.num_buckets; ++b) {
      uint8_t* line = &digests[static_cast<uint64_t>(b) * kBucketSlots];
      std::memset(line, kDisabled, kBucketSlots);
      std::memset(line, kEmpty, layout.SlotsOf(b));
    }
    std::fill(holders.begin(), holders.end(), 0);
    std::fill(pinned.begin(), pinned.end(), 0);
    size = 0;
  }

  void AllocateRows() { rows.Resize(layout.capacity * row_bytes); }

  uint64_t RowNumber(uint64_t position) const {
    return layout.Row(static_cast<uint32_t>(position / kBucketSlots),
                      static_cast<uint32_t>(position % kBucketSlots));
  }

  char* Row(uint64_t position) const { return rows[RowNumber(position) * row_bytes]; }

  // The key's position in one bucket, and the bucket's room.
  uint64_t Probe(uint32_t bucket, uint32_t tag, uint64_t key, uint32_t* num_free,
                 uint64_t* free_position) const {
    const uint64_t base = static_cast<uint64_t>(bucket) * kBucketSlots;
    const uint32_t slots = layout.SlotsOf(bucket);
    *num_free = 0;
    for (uint32_t s = 0; s < slots; ++s) {
      const uint8_t digest = digests[base + s];
      if (digest == tag && keys[base + s] == key) return base + s;
      if (digest <= kReclaimed && (*num_free)++ == 0) *free_position = base + s;
    }
    return kNoPosition;
  }

  bool Spills(uint32_t home) const {
    return layout.num_buckets > 1 &&
           digests[static_cast<uint64_t>(home) * kBucketSlots + layout.spill_slot] != kEmpty;
  }

  uint64_t Find(uint64_t key, uint64_t* free_position) const {
    const Place place = layout.PlaceOf(key);
    uint32_t home_free = 0, other_free = 0;
    uint64_t other_position = kNoPosition;
    *free_position = kNoPosition;
    uint64_t found = Probe(place.home, place.tag, key, &home_free, free_position);
    if (found == kNoPosition && Spills(place.home)) {
      found = Probe(place.other, place.tag, key, &other_free, &other_position);
      if (other_free > home_free) *free_position = other_position;
    }
    return found;
  }

  uint64_t Find(uint64_t key) const {
    uint64_t free_position;
    return Find(key, &free_position);
  }

  // The slot of the bucket whose key leaves first; not a held one, nor one that call `number` gave.
  uint64_t SmallestScore(uint32_t bucket, uint64_t number) const {
    const uint64_t base = static_cast<uint64_t>(bucket) * kBucketSlots;
    uint64_t smallest = kNoPosition;
    for (uint64_t p = base; p < base + layout.SlotsOf(bucket); ++p) {
      if (pinned[p] || (number != 0 && given[p] == number)) continue;
      if (smallest == kNoPosition || scores[p] < scores[smallest]) smallest = p;
    }
    return smallest;
  }

  // Of the key's two buckets, which are full; at home among equals, or at home only.
  uint64_t SmallestScore(const Place& place, EvictFrom from, uint64_t number) const {
    const uint64_t here = SmallestScore(place.home, number);
    if (place.other == place.home || from == EvictFrom::kHomeBucket) return here;
    const uint64_t there = SmallestScore(place.other, number);
    if (there == kNoPosition) return here;
    return here == kNoPosition || scores[there] < scores[here] ? there : here;
  }

  // One holder more or less; false: there was none to go.
  void Hold(uint64_t position) {
    ++holders[position];
    pinned[position] = 1;
  }
  bool LetGo(uint64_t position) {
    if (holders[position] == 0) return false;
    pinned[position] = --holders[position] != 0;
    return true;
  }

  void Put(uint64_t position, bool was_free, uint64_t key, uint64_t score, uint32_t tag) {
    keys[position] = key;
    scores[position] = score;
    digests[position] = static_cast<uint8_t>(tag);
    if (was_free) ++size;
  }

  Slots AsSlots() { return {layout, digests.get(), keys.get(), scores.get(), pinned.data()}; }

  void Erase(uint64_t position) {
    digests[position] = kReclaimed;
    --size;
  }

  Layout layout;
  size_t row_bytes;
  std::unique_ptr<uint8_t[]> digests;
  std::unique_ptr<uint64_t[]> keys, scores;
  RowMemory rows;
  std::vector<uint32_t> holders;
  std::vector<uint8_t> pinned;  // whether there are holders
  std::vector<uint64_t> given;  // the last call that handed the row out
  std::unique_ptr<std::atomic<bool>[]> locks;
  std::atomic<uint64_t> size{0};
};

// Holds the two buckets of a key.
class PlaceLock {
 public:
  PlaceLock(Storage* storage, const Place& place)
      : first_(&storage->locks[std::min(place.home, place.other)]),
        second_(&storage->locks[std::max(place.home, place.other)]) {
    Take(first_);
    if (second_ != first_) Take(second_);
  }
  ~PlaceLock() {
    first_->store(false, std::memory_order_release);
    if (second_ != first_) second_->store(false, std::memory_order_release);
  }

 private:
  static void Take(std::atomic<bool>* lock) {
    while (lock->exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  std::atomic<bool>*first_, *second_;
};

// Threads that go through the same keys, each for its own of them, stay near each other: a bucket
// that is another's should be as full of new keys as one's own when the smaller score is looked
// for.
class Pace {
 public:
  explicit Pace(uint32_t threads) : done_(threads) {}

  void AllRun() { all_run_.store(true); }
  void At(uint32_t thread, uint64_t i) {
    if (i % kStep != 0) return;
    done_[thread].store(i);
    while (all_run_ && i > kAhead) {
      uint64_t slowest = i;
      for (const auto& done : done_) slowest = std::min(slowest, done.load());
      if (slowest + kAhead >= i) return;
      std::this_thread::yield();
    }
  }
  void Done(uint32_t thread) { done_[thread].store(UINT64_MAX); }

 private:
  static constexpr uint64_t kStep = 64, kAhead = 512;
  std::atomic<bool> all_run_{false};
  std::vector<std::atomic<uint64_t>> done_;
};

}  // namespace hkv
