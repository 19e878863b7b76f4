// File: victims.cuh
//
// Which row leaves for a new key: the smallest score of a bucket, read by a warp, among the rows
// that may go in this call.
#pragma once

#include "csrc/hkv/calls.h"
#include "csrc/hkv/probe.cuh"
#include "csrc/hkv/score.h"

namespace hkv {
namespace device {

struct UpsertArgs : Write {
  const uint32_t* list = nullptr;  // only the keys with these indices, *list_size of them, or null
  const unsigned long long* list_size = nullptr;
  uint64_t epoch = 0;
  uint64_t clock_offset = 0;
  uint32_t word_bytes = 16;
  ScoreRule rule = ScoreRule::kGiven;
  bool admits_all = false;                    // Newcomers::kAlways
  bool at_home = false;                       // EvictFrom::kHomeBucket
  bool hands_out = false;                     // no two keys of the call get the same row
  bool ends_call = false;                     // this kernel is the last one of such a call
  const unsigned long long* since = nullptr;  // ~ of the device's clock before such a call, or null
};

// Which rows the call that is being done handed out: those that bear its number, or those whose
// scores are of its time.
struct Guard {
  uint32_t number = 0;  // 0: none
  uint64_t since = UINT64_MAX;

  Guard() = default;
  __device__ __forceinline__ Guard(const View& t, const UpsertArgs& a) {
    if (!a.hands_out) return;
    if (a.since != nullptr) {
      since = ~Load(a.since) + a.clock_offset;
    } else {
      number = LoadRelaxed(&t.state->calls) + 1;
    }
  }

  __device__ __forceinline__ void Give(const View& t, uint32_t position) const {
    if (number != 0) GiveRow(t, position, number);
  }
};

// The table's clock, for rules that look at it.
__device__ __forceinline__ uint64_t Now(const UpsertArgs& a) {
  return NeedsClock(a.rule) ? GlobalTimer() + a.clock_offset : 0;
}

constexpr int kEvictDepth = 2;  // buckets whose scores a warp reads at a time

// A lane's share of a bucket: slots 4 * lane ... 4 * lane + 3.
struct SlotScores {
  uint64_t score[4];
  uint32_t barred;  // a bit per slot that may not be evicted now; << 8: not in this call
};

// kShared: rows may be in use by other warps, and those may not go; nor may those that the call
// handed out.
template <bool kShared>
__device__ __forceinline__ SlotScores LoadScores(const View& t, uint32_t bucket,
                                                 const Guard& guard) {
  const uint32_t slot = (threadIdx.x & 31) * 4;
  const uint32_t position = bucket * kBucketSlots + slot;
  const auto* pairs = reinterpret_cast<const ulonglong2*>(t.ScoreAt(position));
  const ulonglong2 a = __ldcg(pairs), b = __ldcg(pairs + 1);
  SlotScores s = {{a.x, a.y, b.x, b.y}, 0};
  const uint32_t word = position / 32, shift = slot % 32;
  if (kShared) s.barred = LoadRelaxed(t.busy + word) >> shift & 15;
  if (t.pinned != nullptr) s.barred |= (LoadRelaxed(t.pinned + word) >> shift & 15) << 8;
  if (guard.number != 0) s.barred |= (GivenBy(t, word, guard.number) >> shift & 15) << 8;
  if (guard.since != UINT64_MAX) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) s.barred |= (s.score[i] >= guard.since ? 256u : 0) << i;
  }
  const uint32_t slots = t.layout.SlotsOf(bucket);
  const uint32_t here = slots > slot ? min(slots - slot, 4u) : 0;
  s.barred |= (0xfu << here & 0xf) << 8;
  return s;
}

struct Victim {
  uint32_t slot = kNone;
  uint64_t score = 0;
};

// Loads the buckets of the first lanes in `wanted`, as many as there is room for; their loads are
// in flight together. Whole warps only.
template <bool kShared, int kDepth>
__device__ __forceinline__ void LoadScoresOf(const View& t, unsigned wanted, uint32_t bucket,
                                             const Guard& guard, SlotScores (&scores)[kDepth]) {
#pragma unroll
  for (int u = 0; u < kDepth; ++u) {
    if (wanted == 0) continue;
    scores[u] = LoadScores<kShared>(t, __shfl_sync(kFullMask, bucket, __ffs(wanted) - 1), guard);
    wanted &= wanted - 1;
  }
}

// The smallest of a lane's four; slots that may not go count as kMaxScore, and a slot that may wins
// among equals.
struct LaneBest {
  uint64_t score;
  uint32_t slot;

  __device__ __forceinline__ explicit LaneBest(const SlotScores& s) {
    const uint32_t bars = s.barred | s.barred >> 8;
    score = bars & 1 ? kMaxScore : s.score[0];
    slot = 0;
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      const uint64_t other = bars >> i & 1 ? kMaxScore : s.score[i];
      if (other < score || (other == score && (bars >> slot & 1))) {
        score = other;
        slot = i;
      }
    }
  }
};

struct WarpMin {
  uint64_t score;
  bool mine;  // this lane has it
};

__device__ __forceinline__ WarpMin MinOfWarp(uint64_t score) {
  const auto high = static_cast<uint32_t>(score >> 32), low = static_cast<uint32_t>(score);
  const uint32_t min_high = __reduce_min_sync(kFullMask, high);
  const uint32_t min_low = __reduce_min_sync(kFullMask, high == min_high ? low : 0xffffffffu);
  return {static_cast<uint64_t>(min_high) << 32 | min_low, high == min_high && low == min_low};
}

// The smallest score of a warp's bucket; kMaxScore where no row may go. Whole warps only.
__device__ __forceinline__ uint64_t SmallestOf(const SlotScores& s) {
  return MinOfWarp(LaneBest(s).score).score;
}

// The slot with the smallest score of a warp's bucket; among equals the first one. Whole warps
// only.
__device__ __forceinline__ Victim SmallestScore(const SlotScores& s) {
  const uint32_t lane = threadIdx.x & 31;
  const LaneBest best(s);
  const bool any = ((s.barred | s.barred >> 8) >> best.slot & 1) == 0;
  const WarpMin min = MinOfWarp(best.score);
  const unsigned winners = __ballot_sync(kFullMask, any && min.mine);
  Victim victim;
  const uint32_t slot =
      __shfl_sync(kFullMask, lane * 4 + best.slot, winners != 0 ? __ffs(winners) - 1 : 0);
  victim.slot = winners != 0 ? slot : kNone;
  victim.score = min.score;
  return victim;
}

// Gives a slot of a warp's bucket another score.
__device__ __forceinline__ void SetScore(SlotScores& s, uint32_t slot, uint64_t score) {
  const uint32_t mine = (threadIdx.x & 31) == slot / 4 ? slot % 4 : kNone;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) s.score[i] = mine == i ? score : s.score[i];
}

// The bucket of the two in which a new key makes an eviction: where the smaller score was last
// seen.
__device__ __forceinline__ uint32_t BucketToEvictIn(const View& t, const UpsertArgs& a,
                                                    const Place& place) {
  if (a.at_home) return place.home;
  const uint64_t other = LoadInCache(&t.buckets[place.other].level);
  return other < LoadInCache(&t.buckets[place.home].level) ? place.other : place.home;
}

// Says how low the scores of a bucket are; that no row may go now is no reason to shun it later.
__device__ __forceinline__ void SetLevel(const View& t, uint32_t bucket, uint64_t score) {
  StoreRelaxed(&t.buckets[bucket].level, score == kMaxScore ? 0 : score);
}

// The row that leaves for a lane's new key.
struct Eviction {
  uint32_t position = kNone;
  uint64_t score = 0;
  uint64_t next = 0;     // the smallest score of its bucket without it
  bool blocked = false;  // some slot was busy, so there may be another victim later
};

// For every lane in `wanted` the smallest score of its bucket.
__device__ __forceinline__ Eviction FindVictims(const View& t, unsigned wanted, uint32_t bucket,
                                                const Guard& guard) {
  const uint32_t lane = threadIdx.x & 31;
  Eviction mine;
#pragma unroll 1
  while (wanted != 0) {
    SlotScores scores[kEvictDepth];
    LoadScoresOf<true>(t, wanted, bucket, guard, scores);
#pragma unroll
    for (int u = 0; u < kEvictDepth; ++u) {
      if (wanted == 0) break;
      const uint32_t owner = __ffs(wanted) - 1;
      wanted &= wanted - 1;
      const Victim victim = SmallestScore(scores[u]);
      const uint32_t barred = scores[u].barred;
      const bool waits = __ballot_sync(kFullMask, (barred & ~(barred >> 8) & 15) != 0) != 0;
      SetScore(scores[u], victim.slot, kMaxScore);
      const uint64_t next = SmallestOf(scores[u]);
      if (lane == owner) {
        mine.score = victim.score;
        mine.next = next;
        mine.blocked = waits;
        if (victim.slot != kNone) mine.position = bucket * kBucketSlots + victim.slot;
      }
    }
  }
  return mine;
}

// Whether a new key with that score takes the place of the victim.
__device__ __forceinline__ bool Replaces(const UpsertArgs& a, uint64_t score, bool is_victim,
                                         uint64_t victim_score) {
  return is_victim && (score >= victim_score || a.admits_all);
}

// The row that leaves for the new keys of the lanes with `evicts`, in the one of their buckets
// where it should be, or in the other one.
__device__ __forceinline__ Eviction MakeEviction(const View& t, const UpsertArgs& a,
                                                 const Place& place, const Guard& guard,
                                                 bool evicts, unsigned evictors, uint64_t score) {
  uint32_t bucket = evicts ? BucketToEvictIn(t, a, place) : 0;
  __syncwarp();
  Eviction found = FindVictims(t, evictors, bucket, guard);
  const bool asks = evicts && place.other != place.home && !a.at_home &&
                    !Replaces(a, score, found.position != kNone, found.score);
  const unsigned asked = __ballot_sync(kFullMask, asks);
  if (asked == 0) return found;
  bucket = bucket == place.home ? place.other : place.home;
  const Eviction second = FindVictims(t, asked, bucket, guard);
  if (asks) {
    const bool blocked = found.blocked || second.blocked;
    const bool better =
        second.position != kNone && (found.position == kNone || second.score < found.score);
    if (better) found = second;
    found.blocked = blocked;
  }
  return found;
}

}  // namespace device
}  // namespace hkv
