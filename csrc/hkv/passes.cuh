// File: passes.cuh
//
// A large batch is written in three passes, with few accesses that wait for one another and many
// keys in flight:
//
//   claim  a present key gets its new score, an absent one a free slot; their rows are moved
//   evict  absent keys without a free slot, bucket by bucket: the smallest score leaves, of that of
//          the key's buckets where it was last seen to be smaller
//   rest   what the two left goes through UpsertKernel
//
// A call has the table to itself, so nothing needs a lock: a filter lets only the first of equal
// keys (and now and then a stranger of the same bits) into the passes, the others are the rest; a
// free slot is claimed in its digest, which becomes the key's tag when the key is there; a bucket's
// evictions are made by one warp.
#pragma once

#include <cooperative_groups.h>

#include "csrc/hkv/host_rows.cuh"
#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

enum PassCounter { kWaiters, kBuckets, kRest, kSince, kNumPassCounters };

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

constexpr int kEvictBlocks = 4;         // resident per multiprocessor
constexpr int kEvictPrefetch = 4;       // buckets whose scores a warp reads at a time
constexpr uint64_t kFewWaiters = 1024;  // that are no round by themselves

// A key that waits for an eviction, and what became of it.
struct Waiting {
  uint32_t i = kNone;
  uint32_t next = kNone;
  uint64_t key = 0;
  uint64_t score = 0;
  Victim victim;
  bool replaces = false;
  bool left = false;

  __device__ __forceinline__ bool Settled() const { return i != kNone && !left; }
};

__device__ __forceinline__ Waiting LoadWaiting(const UpsertArgs& a, const Plan& p, uint32_t at) {
  Waiting w;
  if (at == kNone) return w;
  const Waiter waiter = p.waiters[at];
  w.i = waiter.index;
  w.next = waiter.next;
  w.key = waiter.key;
  const uint64_t given = a.scores != nullptr ? a.scores[w.i] : kMaxScore;
  w.score = InsertScore(a.rule, given, Now(a), a.epoch);
  return w;
}

// Chooses the victim for the key of lane `owner`, and gives it the slot. A row moves once in a
// pass: the key is left to the rest if the slot is one of those that *taken has got by now. Where
// rows are handed out, such a slot is none of the bucket's any more.
__device__ __forceinline__ void ChooseVictim(const UpsertArgs& a, SlotScores& scores,
                                             uint32_t owner, Waiting& w, ulonglong2& taken) {
  const uint32_t lane = threadIdx.x & 31;
  const Victim victim = SmallestScore(scores);
  if (lane == owner) {
    w.victim = victim;
    if (Replaces(a, w.score, victim.slot != kNone, victim.score)) {
      const uint64_t bit = uint64_t{1} << (victim.slot & 63);
      const ulonglong2 mine = victim.slot < 64 ? make_ulonglong2(bit, 0) : make_ulonglong2(0, bit);
      w.left = ((taken.x & mine.x) | (taken.y & mine.y)) != 0;
      taken.x |= mine.x;
      taken.y |= mine.y;
      w.replaces = !w.left;
    }
  }
  const bool replaces = __shfl_sync(kFullMask, w.replaces, owner);
  const uint64_t score = __shfl_sync(kFullMask, w.score, owner);
  if (!replaces) return;
  SetScore(scores, victim.slot, score);
  if (a.hands_out && lane == victim.slot / 4) scores.barred |= 1u << victim.slot % 4 << 8;
}

// A key that found no row to replace here is left to the rest if its other bucket has one.
__device__ __forceinline__ void AskOtherBucket(const View& t, const UpsertArgs& a,
                                               const Guard& guard, uint32_t bucket, Waiting& w) {
  const uint32_t lane = threadIdx.x & 31;
  bool asks = w.Settled() && !w.replaces;
  uint32_t other = 0;
  if (asks) {
    const Place place = t.layout.PlaceOf(w.key);
    other = place.home == bucket ? place.other : place.home;
    asks = other != bucket && !a.at_home;
  }
  for (unsigned left = __ballot_sync(kFullMask, asks); left != 0; left &= left - 1) {
    const uint32_t owner = __ffs(left) - 1;
    const Victim victim =
        SmallestScore(LoadScores<false>(t, __shfl_sync(kFullMask, other, owner), guard));
    if (lane == owner) w.left = Replaces(a, w.score, victim.slot != kNone, victim.score);
  }
}

// Writes what was decided for the lanes' keys. `entry`: their places in evicted_*.
template <WriteMode kMode>
__device__ __forceinline__ void Settle(const View& t, const UpsertArgs& a, const Plan& p,
                                       WarpScratch& scratch, const Guard& guard, uint32_t bucket,
                                       const Waiting& w, bool listed, uint64_t entry) {
  const bool settled = w.Settled(), replaced = w.replaces;
  const uint32_t position = bucket * kBucketSlots + w.victim.slot;
  char* const row = replaced ? t.RowAt(position) : nullptr;
  char* const mine = settled ? a.values + w.i * a.pitch : nullptr;
  if (listed) {
    a.evicted_keys[entry] = replaced ? LoadRelaxed(t.KeyAt(position)) : w.key;
    if (a.evicted_scores != nullptr) a.evicted_scores[entry] = replaced ? w.victim.score : w.score;
  }
  if (a.evicted_values != nullptr) {
    CopyRows<kPassUnroll, false>(scratch,
                                 !listed    ? nullptr
                                 : replaced ? row
                                            : mine,
                                 a.evicted_values + entry * a.pitch, t.row_bytes, a.word_bytes);
    __syncwarp();
  }
  if (a.values != nullptr) {
    CopyRows<kPassUnroll, true>(scratch, replaced ? mine : nullptr, row, t.row_bytes, a.word_bytes);
  }
  if (replaced) {
    PutKey(t, position, w.key, w.score, t.layout.PlaceOf(w.key).tag);
    guard.Give(t, position);
  }
  const uint64_t at = Append(p.counters + kRest, w.left);
  if (w.left) p.rest[at] = w.i;
  if (settled)
    Report(t, a, w.i, replaced ? kEvicted : kRefused, replaced ? position : kNone, w.score);
}

// A warp makes the evictions of the lanes' buckets, up to two in each at a time.
template <WriteMode kMode>
__device__ __forceinline__ void EvictIn(const View& t, const UpsertArgs& a, const Plan& p,
                                        WarpScratch& scratch, const Guard& guard, uint32_t bucket) {
  constexpr bool kRefusedLeave = kMode == WriteMode::kInsertAndEvict;
  constexpr bool kMayList = kRefusedLeave || kMode == WriteMode::kFindOrInsert;
  const bool lists = kRefusedLeave || (kMayList && a.evicted_keys != nullptr);
  const uint32_t lane = threadIdx.x & 31;
  uint32_t first = bucket != kNone ? LoadRelaxed(&t.buckets[bucket].waiting) : kNone;
  if (first != kNone) t.buckets[bucket].waiting = kNone;
  ulonglong2 taken = make_ulonglong2(0, 0);
  unsigned wanted;
  while ((wanted = __ballot_sync(kFullMask, first != kNone)) != 0) {
    Waiting one = LoadWaiting(a, p, first);
    Waiting two = LoadWaiting(a, p, one.next);
    const unsigned pairs = __ballot_sync(kFullMask, two.i != kNone);
    first = two.next;
#pragma unroll 1
    while (wanted != 0) {
      SlotScores scores[kEvictPrefetch];
      LoadScoresOf<false>(t, wanted, bucket, guard, scores);
#pragma unroll
      for (int u = 0; u < kEvictPrefetch; ++u) {
        if (wanted == 0) continue;
        const uint32_t owner = __ffs(wanted) - 1;
        wanted &= wanted - 1;
        ChooseVictim(a, scores[u], owner, one, taken);
        if (pairs >> owner & 1) ChooseVictim(a, scores[u], owner, two, taken);
        const uint64_t next = SmallestOf(scores[u]);
        if (lane == owner) SetLevel(t, bucket, next);
      }
    }
    AskOtherBucket(t, a, guard, bucket, one);
    AskOtherBucket(t, a, guard, bucket, two);
    const bool list_one = lists && (one.replaces || (kRefusedLeave && one.Settled()));
    const bool list_two = lists && (two.replaces || (kRefusedLeave && two.Settled()));
    const unsigned ones = __ballot_sync(kFullMask, list_one);
    const unsigned twos = __ballot_sync(kFullMask, list_two);
    unsigned long long entry = 0;
    if (kMayList && (ones | twos) != 0) {
      if (lane == 0) entry = atomicAdd(Counter(a.evicted_count), __popc(ones) + __popc(twos));
      entry = __shfl_sync(kFullMask, entry, 0);
    }
    const unsigned below = (1u << lane) - 1;
    Settle<kMode>(t, a, p, scratch, guard, bucket, one, list_one, entry + __popc(ones & below));
    Settle<kMode>(t, a, p, scratch, guard, bucket, two, list_two,
                  entry + __popc(ones) + __popc(twos & below));
    __syncwarp();
  }
}

// Puts the waiters `first` ... end - 1 into the lists of the buckets in which they evict, and those
// buckets into the list of them.
__device__ __forceinline__ void ChooseBuckets(const View& t, const UpsertArgs& a, const Plan& p,
                                              uint64_t first, uint64_t end, uint64_t step) {
  for (uint64_t at = first + ThreadIndex(); at - (threadIdx.x & 31) < end; at += step) {
    bool opens = false;
    uint32_t bucket = 0;
    if (at < end) {
      Waiter* const waiter = p.waiters + at;
      bucket = BucketToEvictIn(t, a, t.layout.PlaceOf(waiter->key));
      const uint32_t next = ExchangeInCache(&t.buckets[bucket].waiting, static_cast<uint32_t>(at));
      waiter->next = next;
      opens = next == kNone;
    }
    __syncwarp();
    const uint64_t entry = Append(p.counters + kBuckets, opens);
    if (opens) p.buckets[entry] = bucket;
  }
}

// In rounds of at most about one waiter for two buckets, so that a choice sees the evictions before
// it. Its blocks wait for one another (a cooperative launch).
template <WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kEvictBlocks)
    EvictKernel(const View t, const UpsertArgs a, const Plan p) {
  const uint64_t waiters = Load(p.counters + kWaiters);
  if (waiters == 0 && p.positions == nullptr) return;
  __shared__ WarpScratch scratches[kThreads / 32];
  const auto grid = cooperative_groups::this_grid();
  const Guard guard(t, a);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  const uint64_t half = t.layout.num_buckets / 2;
  const uint64_t round = half == 0 || a.at_home ? waiters : max(half, kFewWaiters);
  if (p.positions != nullptr) {
    for (uint64_t i = ThreadIndex(); i < a.n; i += step) {
      const uint32_t position = p.positions[i];
      if (position != kNone && p.IsTouched(position / kBucketSlots)) guard.Give(t, position);
    }
  }
  uint64_t done = 0;  // buckets
#pragma unroll 1
  for (uint64_t first = 0; first < waiters; first += round) {
    const uint64_t end = min(waiters, first + round);
    ChooseBuckets(t, a, p, first, end, step);
    grid.sync();
    const uint64_t buckets = Load(p.counters + kBuckets);
    for (uint64_t at = done + ThreadIndex(); at - (threadIdx.x & 31) < buckets; at += step) {
      const uint32_t bucket = at < buckets ? LoadRelaxed(p.buckets + at) : kNone;
      EvictIn<kMode>(t, a, p, scratches[threadIdx.x / 32], guard, bucket);
    }
    done = buckets;
    if (end < waiters) grid.sync();
  }
}

}  // namespace device
}  // namespace hkv
