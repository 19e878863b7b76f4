// File: layout.h
//
// Where a key lives. The table is an array of buckets of at most 128 slots. A key has a home bucket
// and another bucket (two-choice hashing): it goes home while fewer than three quarters of the home
// slots were ever used, and after that to the one of the two with more room. So a lookup reads one
// bucket until the table is quite full, and the first eviction comes at about 98 % load. When both
// are full, the smallest score of the two is evicted.
//
// Per slot: one digest byte (below), an 8-byte key, an 8-byte score, a row of values. The capacity
// is exact: the first `wide` buckets have `slots` slots, the others one less; the rows of bucket b
// follow those of bucket b - 1 with no gap, so row numbers are 0 ... capacity - 1.
#pragma once

#include <cstdint>

#include "csrc/common/portable.h"

namespace hkv {

constexpr uint32_t kBucketSlots = 128;  // stride of keys, scores and digests

// Digest bytes. Every 64-bit key value is allowed because emptiness is kept here, not in the key.
constexpr uint32_t kEmpty = 0;      // never used since the last clear
constexpr uint32_t kReclaimed = 1;  // erased; free again, but lookups must not stop at it
constexpr uint32_t kDisabled = 2;   // beyond the bucket's slots
constexpr uint32_t kClaimed = 3;    // given to a new key of the batch that is being written
constexpr uint32_t kFirstTag =
    4;  // 4 ... 255: a live key with this tag. Even, so that tag ^ 1 is a
        // tag too: the comparison may take one for the other (probe.cuh)

constexpr uint64_t kMaxCapacity = (uint64_t{1} << 32) - 2 * kBucketSlots;

struct Place {
  uint32_t home;
  uint32_t other;  // equals home only when there is one bucket
  uint32_t tag;
  uint32_t bits;  // half of the key's hash: the tag comes from it
  uint32_t high;  // the other half: the home bucket comes from it
};

struct Layout {
  uint64_t capacity = 0;
  uint32_t num_buckets = 0;
  uint32_t slots = 0;       // of the wide buckets
  uint32_t wide = 0;        // number of wide buckets
  uint32_t spill_slot = 0;  // a non-empty digest here means: keys of this home may live elsewhere;
                            // 16 k + 15, and at least 47 where there are several buckets

  static Layout Of(uint64_t capacity) {
    Layout layout;
    layout.capacity = capacity;
    layout.num_buckets = static_cast<uint32_t>((capacity + kBucketSlots - 1) / kBucketSlots);
    layout.slots = static_cast<uint32_t>((capacity + layout.num_buckets - 1) / layout.num_buckets);
    layout.wide = static_cast<uint32_t>(capacity - static_cast<uint64_t>(layout.num_buckets) *
                                                       (layout.slots - 1));
    layout.spill_slot = layout.slots < 22 ? 15 : layout.slots * 3 / 64 * 16 - 1;
    return layout;
  }

  ACCEL_HD uint32_t SlotsOf(uint32_t bucket) const { return bucket < wide ? slots : slots - 1; }

  ACCEL_HD uint64_t Row(uint32_t bucket, uint32_t slot) const {
    const uint32_t narrow = bucket > wide ? bucket - wide : 0;
    return static_cast<uint64_t>(bucket) * slots - narrow + slot;
  }

  // The inverse of Row().
  ACCEL_HD void Locate(uint64_t row, uint32_t* bucket, uint32_t* slot) const {
    const uint32_t r = static_cast<uint32_t>(row);
    const uint32_t wide_rows = wide * slots;  // < 2^32, see kMaxCapacity
    if (r < wide_rows) {
      *bucket = r / slots;
      *slot = r - *bucket * slots;
    } else {
      const uint32_t b = (r - wide_rows) / (slots - 1);
      *bucket = wide + b;
      *slot = r - wide_rows - b * (slots - 1);
    }
  }

  ACCEL_HD Place PlaceOf(uint64_t key) const {
    // MurmurHash3's 64-bit finalizer (Appleby).
    uint64_t h = key;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ULL;
    h ^= h >> 33;
    Place place;
    place.high = static_cast<uint32_t>(h >> 32);
    place.home = Scale(place.high);
    place.other = Scale(static_cast<uint32_t>((h * 0x9e3779b97f4a7c15ULL) >> 32));
    if (place.other == place.home) place.other = place.home + 1 < num_buckets ? place.home + 1 : 0;
    place.bits = static_cast<uint32_t>(h);
    place.tag = kFirstTag + ((place.bits & 0xff) * (256 - kFirstTag) >> 8);
    return place;
  }

  // Maps 32 random bits to 0 ... num_buckets - 1 without a division.
  ACCEL_HD uint32_t Scale(uint32_t bits) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(bits) * num_buckets) >> 32);
  }
};

}  // namespace hkv
