// File: passes.cuh
//
// A large batch is written in three passes, with few accesses that wait for one another and many
// keys in flight:
//
//   claim  a present key gets its new score, an absent one a free slot; their rows are moved
//   evict  absent keys without a free slot, bucket by bucket: the smallest score leaves
//   rest   what the two left goes through UpsertKernel
//
// A call has the table to itself, so nothing needs a lock: a filter lets only the first of equal
// keys (and now and then a stranger of the same bits) into the passes, the others are the rest; a
// free slot is claimed in its digest, which becomes the key's tag when the key is there; a bucket's
// evictions are made by one warp.
#pragma once

#include "csrc/hkv/host_rows.cuh"
#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

enum PassCounter { kAnyWaits, kRest, kNumPassCounters };

// A key that needs an eviction: one of the list of its home bucket.
struct alignas(16) Waiter {
  uint64_t key;
  uint32_t next;  // index of the next one, or kNone
};

struct Plan {
  unsigned long long* counters = nullptr;  // (kNumPassCounters)
  uint32_t* filter = nullptr;              // bits of the keys that were seen
  uint32_t filter_mask = 0;                // its words - 1
  uint32_t* waiting = nullptr;  // (num_buckets) index of the first waiter, or kNone; all kNone
                                // between calls
  Waiter* waiters = nullptr;    // (n)
  uint32_t* rest = nullptr;     // (n)
  HostMoves host;               // rows of the claim pass for a HostRowsKernel
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

template <EvictStrategy kStrategy, WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kClaimBlocks)
    ClaimKernel(const View t, const UpsertArgs a, const Plan p) {
  constexpr bool kInserts = Inserts(kMode);
  constexpr bool kReads = ReadsValues(kMode);
  __shared__ WarpScratch scratches[kThreads / 32];
  const uint64_t i = ThreadIndex();
  const bool active = i < a.n;
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

  const uint64_t now = Now<kStrategy>(a);
  uint64_t score = 0;
  if (hit) {
    score = Touch<kStrategy>(t, a, position, given, now);
  } else if (fresh) {
    score = a.verbatim ? given : InsertScore(RuleOf(kStrategy), given, now, a.epoch);
    StoreRelaxed(t.KeyAt(position), key);
    StoreRelaxed(t.ScoreAt(position), score);
    Fence();
    StoreRelaxed(t.digests + position, place.tag);
  }
  if (kInserts && waits) {
    const uint32_t next = atomicExch(p.waiting + place.home, static_cast<uint32_t>(i));
    p.waiters[i] = Waiter{key, next};
    if (p.counters[kAnyWaits] == 0) p.counters[kAnyWaits] = 1;
  }
  const uint64_t at = Append(p.counters + kRest, left);
  if (left) p.rest[at] = static_cast<uint32_t>(i);
  const bool moves = hit || fresh;
  char* const row = moves ? t.RowAt(position) : nullptr;
  if (active && !left && !waits) {
    Report(a, i, hit ? kUpdated : fresh ? kInserted : kSkipped, row, score);
  }
  if (a.values != nullptr) {
    const bool reads = kReads && hit;
    const bool moves_here = moves && !p.host.Take(t, position, i, reads);
    char* const mine = a.values + i * t.row_bytes;
    CopyRows<kPassUnroll, true>(scratches[threadIdx.x / 32],
                                !moves_here ? nullptr
                                : reads     ? row
                                            : mine,
                                reads ? mine : row, t.row_bytes, a.word_bytes);
  }
}

constexpr int kEvictBlocks = 4;    // resident per multiprocessor
constexpr int kEvictPrefetch = 4;  // buckets whose scores a warp reads at a time

// A key that waits for an eviction, and what became of it.
struct Waiting {
  uint32_t i = kNone;
  uint32_t next = kNone;
  uint64_t key = 0;
  uint64_t score = 0;
  Victim victim;
  bool left = false;

  __device__ __forceinline__ bool Settled() const { return i != kNone && !left; }
};

template <EvictStrategy kStrategy>
__device__ __forceinline__ Waiting LoadWaiting(const UpsertArgs& a, const Plan& p, uint32_t i) {
  Waiting w;
  w.i = i;
  if (i == kNone) return w;
  const Waiter waiter = p.waiters[i];
  w.next = waiter.next;
  w.key = waiter.key;
  const uint64_t given = a.scores != nullptr ? a.scores[i] : kMaxScore;
  const uint64_t now = Now<kStrategy>(a);
  w.score = a.verbatim ? given : InsertScore(RuleOf(kStrategy), given, now, a.epoch);
  return w;
}

// Chooses the victim for the key of lane `owner`, and gives it the slot. A row moves once in a
// pass: the key is left to the rest if the slot is one of those that *taken has got by now.
__device__ __forceinline__ void ChooseVictim(SlotScores& scores, uint32_t owner, Waiting& w,
                                             ulonglong2& taken) {
  const uint32_t lane = threadIdx.x & 31;
  const Victim victim = SmallestScore(scores);
  bool replaces = false;
  if (lane == owner) {
    w.victim = victim;
    if (victim.slot != kNone && w.score >= victim.score) {
      const uint64_t bit = uint64_t{1} << (victim.slot & 63);
      const ulonglong2 mine = victim.slot < 64 ? make_ulonglong2(bit, 0) : make_ulonglong2(0, bit);
      w.left = ((taken.x & mine.x) | (taken.y & mine.y)) != 0;
      taken.x |= mine.x;
      taken.y |= mine.y;
      replaces = !w.left;
    }
  }
  replaces = __shfl_sync(kFullMask, replaces, owner);
  const uint64_t score = __shfl_sync(kFullMask, w.score, owner);
  const uint32_t mine = replaces && lane == victim.slot / 4 ? victim.slot % 4 : kNone;
#pragma unroll
  for (uint32_t s = 0; s < 4; ++s) scores.score[s] = mine == s ? score : scores.score[s];
}

// Writes what was decided for the lanes' keys. `entry`: their places in evicted_*.
template <WriteMode kMode>
__device__ __forceinline__ void Settle(const View& t, const UpsertArgs& a, const Plan& p,
                                       WarpScratch& scratch, uint32_t bucket, const Waiting& w,
                                       uint64_t entry) {
  constexpr bool kEvicts = kMode == WriteMode::kInsertAndEvict;
  const bool settled = w.Settled();
  const bool replaced = settled && w.victim.slot != kNone && w.score >= w.victim.score;
  const uint32_t position = bucket * kBucketSlots + w.victim.slot;
  char* const row = replaced ? t.RowAt(position) : nullptr;
  char* const mine = settled ? a.values + w.i * static_cast<uint64_t>(t.row_bytes) : nullptr;
  if (kEvicts) {
    if (settled) {
      a.evicted_keys[entry] = replaced ? LoadRelaxed(t.KeyAt(position)) : w.key;
      if (a.evicted_scores != nullptr) {
        a.evicted_scores[entry] = replaced ? w.victim.score : w.score;
      }
    }
    CopyRows<kPassUnroll, false>(scratch, replaced ? row : mine,
                                 a.evicted_values + entry * t.row_bytes, t.row_bytes, a.word_bytes);
    __syncwarp();
  }
  if (a.values != nullptr) {
    CopyRows<kPassUnroll, true>(scratch, replaced ? mine : nullptr, row, t.row_bytes, a.word_bytes);
  }
  if (replaced) {
    StoreRelaxed(t.KeyAt(position), w.key);
    StoreRelaxed(t.ScoreAt(position), w.score);
    StoreRelaxed(t.digests + position, t.layout.PlaceOf(w.key).tag);
  }
  const uint64_t at = Append(p.counters + kRest, w.left);
  if (w.left) p.rest[at] = w.i;
  if (settled) Report(a, w.i, replaced ? kEvicted : kRefused, row, w.score);
}

// A warp makes the evictions of 32 buckets, up to two in each at a time.
template <EvictStrategy kStrategy, WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kEvictBlocks)
    EvictKernel(const View t, const UpsertArgs a, const Plan p) {
  if (p.counters[kAnyWaits] == 0) return;
  __shared__ WarpScratch scratches[kThreads / 32];
  WarpScratch& scratch = scratches[threadIdx.x / 32];
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t b = ThreadIndex(); b - lane < t.layout.num_buckets; b += step) {
    const auto bucket = static_cast<uint32_t>(b);
    uint32_t i = b < t.layout.num_buckets ? p.waiting[bucket] : kNone;
    if (i != kNone) p.waiting[bucket] = kNone;
    ulonglong2 taken = make_ulonglong2(0, 0);
    unsigned wanted;
    while ((wanted = __ballot_sync(kFullMask, i != kNone)) != 0) {
      Waiting one = LoadWaiting<kStrategy>(a, p, i);
      Waiting two = LoadWaiting<kStrategy>(a, p, one.next);
      const unsigned pairs = __ballot_sync(kFullMask, two.i != kNone);
      i = two.next;
#pragma unroll 1
      while (wanted != 0) {
        SlotScores scores[kEvictPrefetch];
        LoadScoresOf<false>(t, wanted, bucket, scores);
#pragma unroll
        for (int u = 0; u < kEvictPrefetch; ++u) {
          if (wanted == 0) continue;
          const uint32_t owner = __ffs(wanted) - 1;
          wanted &= wanted - 1;
          ChooseVictim(scores[u], owner, one, taken);
          if (pairs >> owner & 1) ChooseVictim(scores[u], owner, two, taken);
        }
      }
      const unsigned ones = __ballot_sync(kFullMask, one.Settled());
      const unsigned twos = __ballot_sync(kFullMask, two.Settled());
      unsigned long long entry = 0;
      if (kMode == WriteMode::kInsertAndEvict) {
        if (lane == 0) entry = atomicAdd(Counter(a.evicted_count), __popc(ones) + __popc(twos));
        entry = __shfl_sync(kFullMask, entry, 0);
      }
      const unsigned below = (1u << lane) - 1;
      Settle<kMode>(t, a, p, scratch, bucket, one, entry + __popc(ones & below));
      Settle<kMode>(t, a, p, scratch, bucket, two, entry + __popc(ones) + __popc(twos & below));
      __syncwarp();
    }
  }
}

}  // namespace device
}  // namespace hkv
