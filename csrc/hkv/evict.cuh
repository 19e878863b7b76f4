// File: evict.cuh
//
// The pass of a large batch that makes room: bucket by bucket, a warp reads the scores of those in
// which keys wait, and the smallest ones leave.
#pragma once

#include <cooperative_groups.h>

#include "csrc/hkv/lowest.cuh"

namespace hkv {
namespace device {

constexpr int kEvictBlocks = 4;    // resident per multiprocessor
constexpr int kEvictPrefetch = 4;  // buckets whose scores a warp reads at a time
constexpr int kPendingBlocks = 6;  // the same where few keys are left by EvictKnownKernel
constexpr int kPendingPrefetch = 2;
constexpr uint64_t kFewWaiters = 1024;  // that are no round by themselves

// Chooses the victim for the key of lane `owner`. Where rows are handed out, its slot is none of
// the bucket's any more.
__device__ __forceinline__ void ChooseVictim(const UpsertArgs& a, SlotScores& scores,
                                             uint32_t owner, Waiting& w, ulonglong2& taken) {
  const uint32_t lane = threadIdx.x & 31;
  const Victim victim = SmallestScore(scores);
  if (lane == owner) TakeSlot(a, victim, w, taken);
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

// The victims of the lanes' buckets. `pairs`: the lanes with two keys.
__device__ __forceinline__ void ReadVictims(const View& t, const UpsertArgs& a, const Guard& guard,
                                            unsigned wanted, unsigned pairs, uint32_t bucket,
                                            Waiting& one, Waiting& two, ulonglong2& taken) {
  const uint32_t lane = threadIdx.x & 31;
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
}

// The same, and the slots that leave next are remembered. A key for which there is no victim is
// left to the rest.
__device__ __forceinline__ void ReadLowest(const View& t, const UpsertArgs& a, const Guard& guard,
                                           unsigned wanted, uint32_t bucket, Waiting& one,
                                           Waiting& two, ulonglong2& taken) {
  const uint32_t lane = threadIdx.x & 31;
  Lowest lowest;
#pragma unroll 1
  while (wanted != 0) {
    SlotScores scores[kPendingPrefetch];
    LoadScoresOf<false>(t, wanted, bucket, guard, scores);
#pragma unroll
    for (int u = 0; u < kPendingPrefetch; ++u) {
      if (wanted == 0) continue;
      const uint32_t owner = __ffs(wanted) - 1;
      wanted &= wanted - 1;
      const Lowest found = LowestOf(scores[u]);
      if (lane == owner) lowest = found;
    }
  }
  if (one.i == kNone) return;
  const auto score = [&] { return LoadRelaxed(t.ScoreAt(bucket * kBucketSlots + lowest.First())); };
  const auto take = [&](Waiting& w) {
    if (w.i == kNone) return;
    if (lowest.slots != kNoSlots) {
      Victim victim;
      victim.slot = lowest.First();
      victim.score = score();
      TakeSlot(a, victim, w, taken);
      lowest = lowest.WithoutFirst();
    }
    w.left = !w.replaces;
  };
  take(one);
  take(two);
  SetLevel(t, bucket, lowest.slots != kNoSlots ? score() : lowest.below);
  BucketState* const state = t.buckets + bucket;
  StoreRelaxed(&state->lowest, lowest.slots);
  StoreRelaxed(&state->below, lowest.below);
  StoreRelaxed(&state->lowered, LoadRelaxed(&t.state->lowered));
}

// A warp makes the evictions of the lanes' buckets, up to two in each at a time.
template <WriteMode kMode, bool kKnows>
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
    if constexpr (kKnows) {
      ReadLowest(t, a, guard, wanted, bucket, one, two, taken);
    } else {
      ReadVictims(t, a, guard, wanted, pairs, bucket, one, two, taken);
    }
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

// Puts the waiters `first` ... end - 1 (of those that are pending) into the lists of the buckets in
// which they evict, and those buckets into the list of them.
template <bool kKnows>
__device__ __forceinline__ void ChooseBuckets(const View& t, const UpsertArgs& a, const Plan& p,
                                              uint64_t first, uint64_t end, uint64_t step) {
  for (uint64_t at = first + ThreadIndex(); at - (threadIdx.x & 31) < end; at += step) {
    bool opens = false;
    uint32_t bucket = 0;
    if (at < end) {
      const uint32_t w = kKnows ? LoadRelaxed(p.pending + at) : static_cast<uint32_t>(at);
      Waiter* const waiter = p.waiters + w;
      bucket = BucketToEvictIn(t, a, t.layout.PlaceOf(waiter->key));
      const uint32_t next = ExchangeInCache(&t.buckets[bucket].waiting, w);
      waiter->next = next;
      opens = next == kNone;
    }
    __syncwarp();
    const uint64_t entry = Append(p.counters + kBuckets, opens);
    if (opens) p.buckets[entry] = bucket;
  }
}

// In rounds of at most about one waiter for two buckets, so that a choice sees the evictions before
// it. Its blocks wait for one another (a cooperative launch). kKnows: behind EvictKnownKernel.
template <WriteMode kMode, bool kKnows>
__global__ void __launch_bounds__(kThreads, kKnows ? kPendingBlocks : kEvictBlocks)
    EvictKernel(const View t, const UpsertArgs a, const Plan p) {
  const uint64_t waiters = Load(p.counters + (kKnows ? kPending : kWaiters));
  if (waiters == 0 && p.positions == nullptr) return;
  __shared__ WarpScratch scratches[kThreads / 32];
  const auto grid = cooperative_groups::this_grid();
  const Guard guard(t, a);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  const uint64_t half = t.layout.num_buckets / 2;
  const uint64_t round = half == 0 || a.at_home ? waiters : max(half, kFewWaiters);
  if (!kKnows && p.positions != nullptr) {
    for (uint64_t i = ThreadIndex(); i < a.n; i += step) {
      const uint32_t position = p.positions[i];
      if (position != kNone && p.IsTouched(position / kBucketSlots)) guard.Give(t, position);
    }
  }
  const uint64_t warps = step / 32, warp = ThreadIndex() / 32, lane = threadIdx.x & 31;
  uint64_t done = 0;  // buckets
#pragma unroll 1
  for (uint64_t first = 0; first < waiters; first += round) {
    const uint64_t end = min(waiters, first + round);
    ChooseBuckets<kKnows>(t, a, p, first, end, step);
    grid.sync();
    const uint64_t buckets = Load(p.counters + kBuckets);
    // Few buckets are spread over all warps: a warp reads its buckets one after the other.
    const uint64_t each = min(uint64_t{32}, (buckets - done + warps - 1) / warps);
    for (uint64_t begin = done + warp * each; begin < buckets; begin += warps * each) {
      const bool active = lane < each && begin + lane < buckets;
      const uint32_t bucket = active ? LoadRelaxed(p.buckets + begin + lane) : kNone;
      EvictIn<kMode, kKnows>(t, a, p, scratches[threadIdx.x / 32], guard, bucket);
    }
    done = buckets;
    if (end < waiters) grid.sync();
  }
}

}  // namespace device
}  // namespace hkv
