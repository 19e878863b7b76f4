// File: probe.cuh
//
// Finding a key, one thread each: the 128 digests of a bucket come by eight loads that are in
// flight together, and only slots whose tag matches have their key read.
#pragma once

#include "csrc/hkv/device.cuh"

namespace hkv {
namespace device {

// Bit 7 of every zero byte; above a zero byte, bytes of value 1 have it too.
__device__ __forceinline__ uint32_t ZeroBytes(uint32_t x) {
  return (x - 0x01010101u) & ~x & 0x80808080u;
}

// The digests of 32 neighbouring slots.
struct DigestGroup {
  uint4 low, high;

  // Where (digest ^ flip) & mask is 0: bit 8 * byte + word of each slot 4 * word + byte.
  __device__ __forceinline__ uint32_t Zeros(uint32_t flip, uint32_t mask) const {
    const auto zeros = [&](uint32_t x) { return ZeroBytes((x ^ flip) & mask); };
    return zeros(low.x) >> 7 | zeros(low.y) >> 6 | zeros(low.z) >> 5 | zeros(low.w) >> 4 |
           zeros(high.x) >> 3 | zeros(high.y) >> 2 | zeros(high.z) >> 1 | zeros(high.w);
  }

  // The slots whose digest is `tag`, and perhaps some whose digest is tag ^ 1.
  __device__ __forceinline__ uint32_t Matches(uint32_t tag) const {
    return Zeros(tag * 0x01010101u, 0xffffffffu);
  }

  // The slots that are free: kEmpty or kReclaimed.
  __device__ __forceinline__ uint32_t Free() const { return Zeros(0, 0xfefefefeu); }
};

constexpr uint32_t kGroupSlots = 32;
constexpr int kGroups = kBucketSlots / kGroupSlots;

// The slot of a bit of Zeros().
__device__ __forceinline__ uint32_t SlotOfBit(uint32_t bit) { return (bit & 7) * 4 + (bit >> 3); }

// kShared: other threads of this grid change the digests, and what they did so far is wanted.
template <bool kShared>
__device__ __forceinline__ DigestGroup LoadGroup(const View& t, uint32_t bucket, int group) {
  const auto* line =
      reinterpret_cast<const uint4*>(t.digests + bucket * kBucketSlots + group * kGroupSlots);
  if (kShared) return {LoadRelaxed(line), LoadRelaxed(line + 1)};
  return {line[0], line[1]};
}

template <bool kShared>
__device__ __forceinline__ bool IsEmpty(const View& t, uint32_t position) {
  return (kShared ? LoadRelaxed(t.digests + position) : t.digests[position]) == kEmpty;
}

// A free position, and how many slots of its bucket were given out before.
struct Room {
  uint32_t position = kNone;
  uint32_t fill = kNone;

  // Looks into one more group, in order. Of a group's free slots one of the first: keys that come
  // together should not want the same one, and the last of a group tells that it is full (Layout).
  __device__ __forceinline__ void Look(uint32_t free, uint32_t first, uint32_t slots_before,
                                       uint32_t bits) {
    if (position != kNone || free == 0) return;
    const uint32_t start = bits >> 8 & 7;
    const uint32_t bit = (__ffs(__funnelshift_r(free, free, start)) - 1 + start) & 31;
    position = first + SlotOfBit(bit);
    fill = slots_before + kGroupSlots - __popc(free);
  }
};

// The key's room: in the emptier bucket of the two, at home while the other is not in use.
template <bool kShared>
__device__ __forceinline__ uint32_t FindRoom(const View& t, const Place& place) {
  Room room;
#pragma unroll 1
  for (int choice = 0; choice < 2; ++choice) {
    const uint32_t bucket = choice == 0 ? place.home : place.other;
    Room here;
#pragma unroll 1
    for (int g = 0; g < kGroups && here.position == kNone; ++g) {
      here.Look(LoadGroup<kShared>(t, bucket, g).Free(), bucket * kBucketSlots + g * kGroupSlots,
                g * kGroupSlots, place.bits);
    }
    if (here.fill < room.fill) room = here;
    if (place.other == place.home ||
        IsEmpty<kShared>(t, bucket * kBucketSlots + t.layout.spill_slot)) {
      break;
    }
  }
  return room.position;
}

// Where a key is, or, for an insertion, where there is room for it.
struct Found {
  uint32_t position = kNone;
  uint32_t room = kNone;
};

template <bool kForInsert, bool kShared>
__device__ __forceinline__ Found FindKey(const View& t, const Place& place, uint64_t key) {
  Found found;
  uint32_t fill = kNone;
#pragma unroll 1
  for (int choice = 0; choice < 2; ++choice) {
    const uint32_t bucket = choice == 0 ? place.home : place.other;
    const uint32_t first = bucket * kBucketSlots;
    DigestGroup groups[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) groups[g] = LoadGroup<kShared>(t, bucket, g);
    uint32_t matches[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) matches[g] = groups[g].Matches(place.tag);
    // The next position that matches, or kNone.
    const auto next = [&] {
      uint32_t position = kNone;
#pragma unroll
      for (int g = kGroups - 1; g >= 0; --g) {
        if (matches[g] != 0) position = first + g * kGroupSlots + SlotOfBit(__ffs(matches[g]) - 1);
      }
      bool passed = false;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        if (!passed && matches[g] != 0) {
          matches[g] &= matches[g] - 1;
          passed = true;
        }
      }
      return position;
    };
    for (uint32_t a = next(); a != kNone; a = next()) {
      const uint32_t b = next();  // in flight together
      const uint64_t key_a = LoadRelaxed(t.KeyAt(a));
      const uint64_t key_b = b != kNone ? LoadRelaxed(t.KeyAt(b)) : ~key;
      if (key_a == key) found.position = a;
      if (key_b == key) found.position = b;
      if (found.position != kNone || b == kNone) break;
    }
    if (found.position != kNone) break;
    if (kForInsert) {
      Room room;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        room.Look(groups[g].Free(), first + g * kGroupSlots, g * kGroupSlots, place.bits);
      }
      if (room.fill < fill) {
        fill = room.fill;
        found.room = room.position;
      }
    }
    if (place.other == place.home || IsEmpty<kShared>(t, first + t.layout.spill_slot)) break;
  }
  return found;
}

}  // namespace device
}  // namespace hkv
