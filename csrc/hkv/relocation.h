// File: relocation.h
//
// Room for a key whose two buckets are full: rows move to their other bucket until one of them
// reaches a free slot, so a set of rows that fits into the table at all is put into it whatever
// order it comes in. When no such way is left, the smallest score within reach leaves; the rows
// that stay are those of the greatest scores (the exchange of a transversal matroid).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "csrc/hkv/layout.h"

namespace hkv {

constexpr uint64_t kNoPosition = UINT64_MAX;

// The slots of a table in host memory, by position = bucket * kBucketSlots + slot.
struct Slots {
  Layout layout;
  uint8_t* digests = nullptr;
  uint64_t* keys = nullptr;
  uint64_t* scores = nullptr;
  const uint8_t* pinned = nullptr;  // nonzero: the row may not move
};

class Relocation {
 public:
  explicit Relocation(const Slots& slots)
      : slots_(slots),
        free_(slots.layout.num_buckets, 0),
        seen_(slots.layout.num_buckets, 0),
        from_(slots.layout.num_buckets, kNoPosition) {
    for (uint32_t b = 0; b < slots_.layout.num_buckets; ++b) {
      for (uint32_t s = 0; s < slots_.layout.SlotsOf(b); ++s) free_[b] += IsFree(First(b) + s);
    }
  }

  // Puts a key that is not in the table there; returns its position, or kNoPosition when its score
  // is below that of every row it could replace. moved(from, to) is called for every row that
  // moves, in an order in which they can be moved one by one; left(position) for a row that leaves.
  template <class Moved, class Left>
  uint64_t Put(uint64_t key, uint64_t score, Moved moved, Left left) {
    const Place place = slots_.layout.PlaceOf(key);
    uint64_t hole = Search(place);
    if (hole == kNoPosition) {
      hole = Smallest();
      if (hole == kNoPosition || slots_.scores[hole] >= score) return kNoPosition;
      left(hole);
    } else {
      --free_[hole / kBucketSlots];
    }
    for (uint64_t from; (from = from_[hole / kBucketSlots]) != kNoPosition; hole = from) {
      slots_.keys[hole] = slots_.keys[from];
      slots_.scores[hole] = slots_.scores[from];
      slots_.digests[hole] = slots_.digests[from];
      moved(from, hole);
    }
    slots_.keys[hole] = key;
    slots_.scores[hole] = score;
    slots_.digests[hole] = static_cast<uint8_t>(place.tag);
    return hole;
  }

  // A key went into a free slot by another way.
  void Took(uint64_t position) { --free_[position / kBucketSlots]; }

  bool Has(uint64_t key) const {
    const Place place = slots_.layout.PlaceOf(key);
    for (const uint32_t bucket : {place.home, place.other}) {
      for (uint32_t s = 0; s < slots_.layout.SlotsOf(bucket); ++s) {
        const uint64_t p = First(bucket) + s;
        if (slots_.digests[p] == place.tag && slots_.keys[p] == key) return true;
      }
    }
    return false;
  }

 private:
  static uint64_t First(uint32_t bucket) { return uint64_t{bucket} * kBucketSlots; }
  bool IsFree(uint64_t position) const { return slots_.digests[position] <= kReclaimed; }

  void Reach(uint32_t bucket, uint64_t from) {
    if (seen_[bucket] == search_) return;
    seen_[bucket] = search_;
    from_[bucket] = from;
    reached_.push_back(bucket);
  }

  // A free slot in the nearest bucket that has one, or kNoPosition; from_ tells the way to it.
  uint64_t Search(const Place& place) {
    ++search_;
    reached_.clear();
    Reach(place.home, kNoPosition);
    // A key may live away from home only when its home was filled up to the spill slot.
    const bool spills = slots_.digests[First(place.home) + slots_.layout.spill_slot] != kEmpty;
    if (free_[place.home] == 0 || spills) Reach(place.other, kNoPosition);
    for (size_t next = 0; next < reached_.size(); ++next) {
      const uint32_t bucket = reached_[next];
      const uint32_t size = slots_.layout.SlotsOf(bucket);
      if (free_[bucket] > 0) {
        for (uint32_t s = 0; s < size; ++s) {
          if (IsFree(First(bucket) + s)) return First(bucket) + s;
        }
      }
      for (uint32_t s = 0; s < size; ++s) {
        const uint64_t position = First(bucket) + s;
        if (slots_.pinned[position]) continue;
        const Place other = slots_.layout.PlaceOf(slots_.keys[position]);
        Reach(other.home == bucket ? other.other : other.home, position);
      }
    }
    return kNoPosition;
  }

  // The smallest score of all that the search reached.
  uint64_t Smallest() const {
    uint64_t smallest = kNoPosition;
    for (uint32_t bucket : reached_) {
      for (uint32_t s = 0; s < slots_.layout.SlotsOf(bucket); ++s) {
        const uint64_t p = First(bucket) + s;
        if (slots_.pinned[p]) continue;
        if (smallest == kNoPosition || slots_.scores[p] < slots_.scores[smallest]) smallest = p;
      }
    }
    return smallest;
  }

  Slots slots_;
  std::vector<uint32_t> free_;  // free slots of each bucket
  std::vector<uint32_t> seen_;  // the last search that reached it
  std::vector<uint64_t> from_;  // position of the row whose other bucket it is
  std::vector<uint32_t> reached_;
  uint32_t search_ = 0;
};

}  // namespace hkv
