// File: probe.cuh
//
// Finding up to 32 keys with one warp. The keys to look up are packed into shared memory; eight
// lanes read the 128-byte digest line of a bucket with one load each, so a load instruction brings
// the lines of four keys, and kProbeDepth of them are in flight. Digest bytes are compared four at
// a time; only slots whose tag matches have their key read. The lane that finds a key writes its
// position to shared memory, where the lane that asked picks it up.
#pragma once

#include "csrc/hkv/device.cuh"

namespace hkv {
namespace device {

constexpr int kProbeDepth = 4;

// Shared memory of one warp.
struct WarpScratch {
  uint4 items[32];  // queries: first position of the bucket, tag four times, key; or row pairs
  uint32_t found[32];
  uint32_t room[32];
  uint32_t spills[32];
};

// What a lane learns about its key in one bucket.
struct Probe {
  uint32_t found = kNone;  // position of the key
  uint32_t room = kNone;   // a free position, one of the bucket's first ones
  bool spills = false;     // the key may live in its other bucket
};

// Bit 7 of every zero byte; above a zero byte, bytes of value 1 have it too.
__device__ __forceinline__ uint32_t ZeroBytes(uint32_t x) {
  return (x - 0x01010101u) & ~x & 0x80808080u;
}

// One bit per digest from four results of ZeroBytes: bit 8 * byte + 4 + word. The lowest set bit is
// never a false one.
__device__ __forceinline__ uint32_t Gather(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return x >> 3 | y >> 2 | z >> 1 | w;
}

__device__ __forceinline__ uint32_t LowestSlot(uint32_t bits) {
  const uint32_t bit = __ffs(bits) - 1;
  return (bit & 3) * 4 + (bit >> 3);
}

// Looks every active lane's key up in its bucket. kForInsert: also looks for room.
template <bool kForInsert>
__device__ __forceinline__ Probe ProbeBuckets(const View& t, WarpScratch& scratch, bool active,
                                              uint32_t bucket, uint32_t tag, uint64_t key) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t sub = lane & 7;
  const uint32_t group = lane >> 3;
  const unsigned active_lanes = __ballot_sync(kFull, active);
  const uint32_t count = __popc(active_lanes);
  const uint32_t rank = __popc(active_lanes & ((1u << lane) - 1));
  const bool spill_lane = sub == t.layout.spill_slot >> 4;
  const unsigned group_below = ((1u << lane) - 1) & ~((1u << (lane & 24)) - 1);
  __syncwarp();
  if (active) {
    scratch.items[rank] = make_uint4(bucket * kBucketSlots, tag * 0x01010101u,
                                     static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    scratch.found[rank] = kNone;
    scratch.spills[rank] = 0;
    if (kForInsert) scratch.room[rank] = kNone;
  }
  __syncwarp();
  const uint8_t* digests = t.digests + sub * 16;
#pragma unroll 1
  for (uint32_t start = 0; start < count; start += 4 * kProbeDepth) {
    uint4 digest[kProbeDepth];
    uint32_t query[kProbeDepth];
#pragma unroll
    for (int r = 0; r < kProbeDepth; ++r) {
      query[r] = min(start + r * 4 + group, count - 1);  // spare groups read the last one again
      digest[r] = LoadRelaxed(reinterpret_cast<const uint4*>(digests + scratch.items[query[r]].x));
    }
    uint32_t match[kProbeDepth];
    uint64_t candidate[kProbeDepth];
    uint32_t more = 0;
#pragma unroll
    for (int r = 0; r < kProbeDepth; ++r) {
      const uint4 d = digest[r];
      const uint2 item = *reinterpret_cast<const uint2*>(&scratch.items[query[r]]);
      const uint32_t tags = item.y;
      const bool spare = start + r * 4 + group >= count;
      match[r] = Gather(ZeroBytes(d.x ^ tags), ZeroBytes(d.y ^ tags), ZeroBytes(d.z ^ tags),
                        ZeroBytes(d.w ^ tags));
      if (spare) match[r] = 0;
      more |= match[r] & (match[r] - 1);
      if (match[r] != 0) {
        candidate[r] = LoadRelaxed(t.keys + (item.x + sub * 16 + LowestSlot(match[r])));
      }
      if (spill_lane && !spare && d.w >> 24 != kEmpty) scratch.spills[query[r]] = 1;
      if (kForInsert) {
        const uint32_t mask = 0xfefefefeu;
        const uint32_t room = Gather(ZeroBytes(d.x & mask), ZeroBytes(d.y & mask),
                                     ZeroBytes(d.z & mask), ZeroBytes(d.w & mask));
        const unsigned with_room = __ballot_sync(kFull, room != 0);
        if (room != 0 && !spare && (with_room & group_below) == 0) {
          // Of the next few free slots: keys that come together should not want the same one.
          uint32_t choice = room;
          for (uint32_t skip = tags & 3; skip != 0 && (choice & (choice - 1)) != 0; --skip) {
            choice &= choice - 1;
          }
          scratch.room[query[r]] = item.x + sub * 16 + LowestSlot(choice);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kProbeDepth; ++r) {
      const uint4 item = scratch.items[query[r]];
      const uint64_t wanted = static_cast<uint64_t>(item.w) << 32 | item.z;
      if (match[r] != 0 && candidate[r] == wanted) {
        scratch.found[query[r]] = item.x + sub * 16 + LowestSlot(match[r]);
      }
    }
    if (more != 0) {
#pragma unroll 1
      for (int r = 0; r < kProbeDepth; ++r) {
        uint32_t left = match[0];
#pragma unroll
        for (int j = 1; j < kProbeDepth; ++j) left = r == j ? match[j] : left;
        const uint32_t q = min(start + r * 4 + group, count - 1);
        const uint4 item = scratch.items[q];
        const uint64_t wanted = static_cast<uint64_t>(item.w) << 32 | item.z;
        for (left &= left - 1; left != 0; left &= left - 1) {
          const uint32_t position = item.x + sub * 16 + LowestSlot(left);
          if (LoadRelaxed(t.keys + position) == wanted) scratch.found[q] = position;
        }
      }
    }
    __syncwarp();
  }
  Probe mine;
  if (active) {
    mine.found = scratch.found[rank];
    mine.spills = scratch.spills[rank] != 0;
    if (kForInsert) {
      mine.room = scratch.room[rank];
    }
  }
  return mine;
}

// Where a key is, and where there is room for it.
struct Found {
  uint32_t position = kNone;
  uint32_t room = kNone;  // a free position in the emptier of its buckets
};

// Looks every active lane's key up in the buckets that may have it.
template <bool kForInsert>
__device__ __forceinline__ Found FindKeys(const View& t, WarpScratch& scratch, bool active,
                                          const Place& place, uint64_t key) {
  Found mine;
  uint32_t bucket = place.home;
#pragma unroll 1
  for (int choice = 0; choice < 2; ++choice) {
    const Probe probe = ProbeBuckets<kForInsert>(t, scratch, active, bucket, place.tag, key);
    if (active && probe.found != kNone) mine.position = probe.found;
    // Slots are given out from the first one on, so the first free one tells how full a bucket is.
    if (kForInsert && probe.room != kNone &&
        (mine.room == kNone || probe.room % kBucketSlots < mine.room % kBucketSlots)) {
      mine.room = probe.room;
    }
    active = active && probe.found == kNone && probe.spills && place.other != place.home;
    if (__ballot_sync(kFull, active) == 0) break;
    bucket = place.other;
  }
  return mine;
}

}  // namespace device
}  // namespace hkv
