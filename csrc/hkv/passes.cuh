// File: passes.cuh
//
// A large batch is written in three passes, with few accesses that wait for one another and many
// keys in flight:
//
//   claim  a present key gets its new score, an absent one a free slot; their rows are moved
//   evict  absent keys without a free slot: the smallest score leaves, of that of the key's buckets
//          where it was last seen to be smaller (evict.cuh; lowest.cuh)
//   rest   what the two left goes through UpsertKernel
//
// A call has the table to itself, so nothing needs a lock: a filter lets only the first of equal
// keys (and now and then a stranger of the same bits) into the passes, the others are the rest; a
// free slot is claimed in its digest, which becomes the key's tag when the key is there; and no
// slot leaves twice.
#pragma once

#include "csrc/hkv/host_rows.cuh"
#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

enum PassCounter { kWaiters, kPending, kBuckets, kRest, kSince, kNumPassCounters };

// A key that needs an eviction, in the list of one of its buckets.
struct alignas(16) Waiter {
  uint64_t key;
  uint32_t index;  // in the batch
  uint32_t next;   // waiter of the same bucket, or kNone
};

struct Plan {
  unsigned long long* counters = nullptr;  // (kNumPassCounters)
  uint32_t* filter = nullptr;              // bits of the keys that were seen
  uint32_t filter_mask = 0;                // its words - 1
  Waiter* waiters = nullptr;               // (n)
  uint32_t* buckets = nullptr;             // (n) those with waiters, one round's behind another's
  uint32_t* rest = nullptr;                // (n)
  uint32_t* pending = nullptr;             // (n) waiters for which no row is known (lowest.cuh)
  // Of a call that marks the rows that it hands out, or null:
  uint32_t* positions = nullptr;  // (n) of the rows that the claim pass handed out, or kNone
  uint32_t* touched = nullptr;    // a bit per bucket in which the call may yet evict, 0 at first
  bool more_follows = false;      // the batch has more parts: any row may be in danger
  HostMoves host;                 // rows of the claim pass for a HostRowsKernel

  __device__ __forceinline__ void Touch(uint32_t bucket) const {
    atomicOr(touched + bucket / 32, 1u << bucket % 32);
  }
  __device__ __forceinline__ bool IsTouched(uint32_t bucket) const {
    return more_follows || (touched[bucket / 32] >> bucket % 32 & 1) != 0;
  }
};

// Whether the batch had this key before; one stranger in a thousand is taken for such a key. A key
// has three bits of one word of the filter.
__device__ __forceinline__ bool SeenBefore(const Plan& p, const Place& place) {
  const uint32_t mine =
      1u << (place.bits & 31) | 1u << (place.bits >> 27) | 1u << (place.high & 31);
  return (OrInCache(p.filter + (place.bits >> 5 & p.filter_mask), mine) & mine) == mine;
}

// Claims a free slot, `room` or one of the same four; kNone when others took them all.
__device__ __forceinline__ uint32_t ClaimSlot(const View& t, uint32_t room) {
  auto* const word = reinterpret_cast<uint32_t*>(t.digests + (room & ~3u));
  uint32_t digests = LoadRelaxed(word), wanted = room & 3;
  for (;;) {
    const uint32_t free = ZeroBytes(digests & 0xfefefefeu);  // the lowest set bit is a true one
    if (free == 0) return kNone;
    if ((digests >> 8 * wanted & 0xff) > kReclaimed) wanted = (__ffs(free) - 1) / 8;
    const uint32_t others = digests & ~(0xffu << 8 * wanted);
    const uint32_t old = atomicCAS(word, digests, others | kClaimed << 8 * wanted);
    if (old == digests) return (room & ~3u) + wanted;
    digests = old;
  }
}

constexpr int kPassUnroll = 4;   // row words of a lane in flight
constexpr int kClaimBlocks = 8;  // resident per multiprocessor
constexpr int kClaimTries = 3;   // at free slots, before a key is left to the rest

template <WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kClaimBlocks)
    ClaimKernel(const View t, const UpsertArgs a, const Plan p) {
  constexpr bool kInserts = Inserts(kMode);
  constexpr bool kReads = ReadsValues(kMode);
  __shared__ WarpScratch scratches[kThreads / 32];
  const uint64_t i = ThreadIndex();
  const bool active = i < a.n;
  if (kInserts && a.since != nullptr) {  // before any score of this block is made
    if (threadIdx.x == 0) atomicMax(p.counters + kSince, ~GlobalTimer());
    __syncthreads();
  }
  const uint64_t key = active ? a.keys[i] : 0;
  const Place place = t.layout.PlaceOf(key);
  const uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
  uint32_t position = kNone;
  bool hit = false, fresh = false, waits = false, left = false;
  if (active) {
    const bool seen = SeenBefore(p, place);
    const Found at = FindKey<kInserts, false>(t, place, key);
    position = at.position;
    left = seen || (position != kNone && !kReads && t.IsPinned(position));
    hit = !left && position != kNone;
    if (kInserts && !left && !hit) {
      waits = at.room == kNone;
      position = waits ? kNone : ClaimSlot(t, at.room);
      for (int tries = 1; tries < kClaimTries && !waits && position == kNone; ++tries) {
        const uint32_t room = FindRoom<true>(t, place);
        waits = room == kNone;
        position = waits ? kNone : ClaimSlot(t, room);
      }
      fresh = position != kNone;
      left = !fresh && !waits;
    }
  }
  __syncwarp();

  const uint64_t now = Now(a);
  uint64_t score = 0;
  if (hit) {
    score = Touch(t, a, position, given, now);
  } else if (fresh) {
    score = InsertScore(a.rule, given, now, a.epoch);
    StoreRelaxed(t.KeyAt(position), key);
    StoreRelaxed(t.ScoreAt(position), score);
    Fence();
    StoreRelaxed(t.digests + position, place.tag);
  }
  const bool moves = hit || fresh;
  if (kInserts) {
    const uint64_t w = Append(p.counters + kWaiters, waits);
    if (waits) p.waiters[w] = Waiter{key, static_cast<uint32_t>(i), kNone};
    if (active && p.positions != nullptr) {
      p.positions[i] = moves ? position : kNone;
      if (waits || left) {
        p.Touch(place.home);
        p.Touch(place.other);
      }
    }
  }
  const uint64_t at = Append(p.counters + kRest, left);
  if (left) p.rest[at] = static_cast<uint32_t>(i);
  char* const row = moves ? t.RowAt(position) : nullptr;
  if (active && !left && !waits) {
    const uint8_t status = hit ? kUpdated : fresh ? kInserted : kSkipped;
    Report(t, a, i, status, moves ? position : kNone, score);
  }
  if (a.values != nullptr) {
    const bool reads = kReads && hit;
    const bool moves_here = moves && !p.host.Take(t, position, i, reads);
    char* const mine = a.values + i * a.pitch;
    CopyRows<kPassUnroll, true>(scratches[threadIdx.x / 32],
                                !moves_here ? nullptr
                                : reads     ? row
                                            : mine,
                                reads ? mine : row, t.row_bytes, a.word_bytes);
  }
}

}  // namespace device
}  // namespace hkv
