// File: lowest.cuh
//
// Evictions where scores are the clock's: they only rise, so the slots that had the smallest scores
// of a bucket when it was read are those that leave next, unless they were used since. A bucket
// remembers up to eight of them, so most evictions read no other scores. The pass "known" takes
// them, a thread for each key, and leaves the keys of buckets that know none to the pass "evict",
// which reads those buckets.
#pragma once

#include "csrc/hkv/passes.cuh"

namespace hkv {
namespace device {

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

// Gives a waiting key its victim's slot. A row moves once in a pass: the key is left to the rest if
// the slot is one of those that *taken has got by now.
__device__ __forceinline__ void TakeSlot(const UpsertArgs& a, const Victim& victim, Waiting& w,
                                         ulonglong2& taken) {
  w.victim = victim;
  if (!Replaces(a, w.score, victim.slot != kNone, victim.score)) return;
  const uint64_t bit = uint64_t{1} << (victim.slot & 63);
  const ulonglong2 mine = victim.slot < 64 ? make_ulonglong2(bit, 0) : make_ulonglong2(0, bit);
  w.left = ((taken.x & mine.x) | (taken.y & mine.y)) != 0;
  taken.x |= mine.x;
  taken.y |= mine.y;
  w.replaces = !w.left;
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

// Whether the lowest slots of buckets are known from call to call.
inline bool KnowsLowest(const UpsertArgs& a) {
  return a.rule == ScoreRule::kClock && (!a.hands_out || a.since != nullptr);
}

constexpr uint32_t kLowestSlots = 8;

// What BucketState has: slots whose scores are at most `below`, in order.
struct Lowest {
  uint64_t slots = kNoSlots;
  uint64_t below = 0;

  __device__ __forceinline__ uint32_t First() const { return slots & 0xff; }
  __device__ __forceinline__ Lowest WithoutFirst() const {
    return {slots >> 8 | uint64_t{0xff} << 56, below};
  }
};

// Those of a warp's bucket: the smallest score of each lane, if it is not above the second smallest
// of any lane. Whole warps only.
__device__ __forceinline__ Lowest LowestOf(const SlotScores& s) {
  const uint32_t lane = threadIdx.x & 31, bars = s.barred | s.barred >> 8;
  uint64_t best = kMaxScore, second = kMaxScore;
  uint32_t slot = 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint64_t score = bars >> i & 1 ? kMaxScore : s.score[i];
    second = min(second, max(best, score));
    if (score < best) slot = lane * 4 + i;
    best = min(best, score);
  }
  Lowest lowest;
  lowest.below = MinOfWarp(second).score;
  const bool is_low = best <= lowest.below && best != kMaxScore;
  uint32_t rank = 0;
  for (unsigned left = __ballot_sync(kFullMask, is_low); left != 0; left &= left - 1) {
    const uint32_t other = __ffs(left) - 1;
    const uint64_t score = __shfl_sync(kFullMask, best, other);
    rank += score < best || (score == best && other < lane);
  }
  const bool too_many = is_low && rank >= kLowestSlots;
  lowest.below = min(lowest.below, MinOfWarp(too_many ? best : kMaxScore).score);
  const uint32_t byte = is_low && !too_many ? (slot ^ 0xff) << 8 * (rank & 3) : 0;
  const uint32_t low = __reduce_or_sync(kFullMask, rank < 4 ? byte : 0);
  const uint32_t high = __reduce_or_sync(kFullMask, rank < 4 ? 0 : byte);
  lowest.slots = ~(uint64_t{high} << 32 | low);
  return lowest;
}

// Takes the first known slot of the bucket that was not used since for the thread's key, if there
// is one. Threads that take slots of one bucket get different ones.
__device__ __forceinline__ void TakeKnown(const View& t, const UpsertArgs& a, const Guard& guard,
                                          uint32_t lowered, uint32_t bucket, Waiting& w) {
  BucketState* const state = t.buckets + bucket;
  const uint32_t base = bucket * kBucketSlots;
  Lowest lowest = {LoadRelaxed(&state->lowest), LoadRelaxed(&state->below)};
  if (LoadRelaxed(&state->lowered) != lowered) return;
  while (lowest.slots != kNoSlots) {
    const Lowest others = lowest.WithoutFirst();
    const uint32_t position = base + lowest.First();
    const uint64_t score = LoadRelaxed(t.ScoreAt(position));
    PrefetchToCache(t.KeyAt(position));
    PrefetchToCache(t.digests + position);
    const uint64_t next =
        others.slots != kNoSlots ? LoadRelaxed(t.ScoreAt(base + others.First())) : lowest.below;
    const uint64_t was = atomicCAS(reinterpret_cast<unsigned long long*>(&state->lowest),
                                   lowest.slots, others.slots);
    if (was != lowest.slots) {
      lowest.slots = was;
      continue;
    }
    if (score <= lowest.below && score < guard.since && !t.IsPinned(position)) {
      w.victim.slot = lowest.First();
      w.victim.score = score;
      w.replaces = Replaces(a, w.score, true, score);
      SetLevel(t, bucket, min(next, lowest.below));
      return;
    }
    lowest = others;
  }
}

constexpr int kKnownBlocks = 6;  // resident per multiprocessor

// For as many keys as there are buckets: more would crowd into those that were lowest before.
template <WriteMode kMode>
__global__ void __launch_bounds__(kThreads, kKnownBlocks)
    EvictKnownKernel(const View t, const UpsertArgs a, const Plan p) {
  constexpr bool kMayList = kMode != WriteMode::kInsertOrAssign;
  const uint64_t waiters = Load(p.counters + kWaiters);
  if (waiters == 0) return;
  __shared__ WarpScratch scratches[kThreads / 32];
  const Guard guard(t, a);
  const uint32_t lowered = LoadRelaxed(&t.state->lowered);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t at = ThreadIndex(); at - (threadIdx.x & 31) < waiters; at += step) {
    Waiting w = LoadWaiting(a, p, at < waiters ? static_cast<uint32_t>(at) : kNone);
    uint32_t bucket = 0;
    if (w.i != kNone && at < t.layout.num_buckets) {
      bucket = BucketToEvictIn(t, a, t.layout.PlaceOf(w.key));
      TakeKnown(t, a, guard, lowered, bucket, w);
    }
    __syncwarp();
    const bool pending = w.i != kNone && !w.replaces;
    const uint64_t entry = Append(p.counters + kPending, pending);
    if (pending) {
      p.pending[entry] = static_cast<uint32_t>(at);
      w.i = kNone;
    }
    const bool listed = kMayList && a.evicted_keys != nullptr && w.replaces;
    const uint64_t out = kMayList ? Append(Counter(a.evicted_count), listed) : 0;
    Settle<kMode>(t, a, p, scratches[threadIdx.x / 32], guard, bucket, w, listed, out);
    __syncwarp();
  }
}

}  // namespace device
}  // namespace hkv
