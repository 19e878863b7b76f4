// File: equals.cuh
//
// Equal keys of a batch. In UpsertKeys they take turns, one every microsecond or two, which is long
// where a batch has thousands of one key. So a key that loses too many races is left for later, and
// of those that are left the first of equal keys goes on as before, while the others follow it, all
// at the same time:
//
//   Group   tells leaders from followers
//   Follow  when the leaders are done: a follower whose key is there reads the row, counts as
//           overwritten, or adds its delta; increments of scores add up
//
// A follower whose key is not there, or locked, is late: it takes its turn at last.
#pragma once

#include "csrc/hkv/upsert.cuh"

namespace hkv {
namespace device {

enum EqualsCounter { kLeft, kLeaders, kFollowers, kLate, kNumEqualsCounters };

struct Equals {
  unsigned long long* counters = nullptr;  // (kNumEqualsCounters), zero at first
  uint32_t* map = nullptr;                 // (MapSize(n)) index of a leader, or kNone; all kNone
                                           // between calls
  uint32_t* left = nullptr;                // (n)
  uint32_t* leaders = nullptr;             // (n); then the late
  uint32_t* followers = nullptr;           // (n)
};

// Slots of the map for so many keys, at least one: a power of two, half of them free.
__host__ __device__ constexpr uint64_t MapSize(uint64_t keys) {
  uint64_t size = 2;
  while (size < 2 * keys) size *= 2;
  return size;
}

// Whether key i is the first of its equals to come to the map, whose slots are mask + 1.
__device__ __forceinline__ bool Leads(const uint64_t* keys, uint32_t* map, uint64_t mask,
                                      uint32_t i) {
  const uint64_t key = keys[i];
  for (uint64_t slot = key * 0x9e3779b97f4a7c15u >> 32;; ++slot) {
    uint32_t* const place = map + (slot & mask);
    uint32_t leader = LoadRelaxed(place);
    if (leader == kNone) leader = atomicCAS(place, kNone, i);
    if (leader == kNone) return true;
    if (keys[leader] == key) return false;
  }
}

// Counts the keys that the table lacks, equal ones once. `map`: MapSize(n), all kNone.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    CountNewKernel(const View t, uint64_t n, const uint64_t* keys, uint32_t* map, uint64_t* count) {
  const uint64_t i = ThreadIndex();
  bool counts = false;
  if (i < n && FindKey<false, false>(t, t.layout.PlaceOf(keys[i]), keys[i]).position == kNone) {
    counts = Leads(keys, map, MapSize(n) - 1, static_cast<uint32_t>(i));
  }
  __syncwarp();
  Append(Counter(count), counts);
}

// Tells the keys of a list apart.
__device__ __forceinline__ void Group(const UpsertArgs& a, const Equals& e, const uint32_t* list,
                                      uint64_t size) {
  const uint64_t mask = MapSize(size) - 1;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t at = ThreadIndex(); (at & ~uint64_t{31}) < size; at += step) {
    const bool active = at < size;
    const uint32_t i = active ? LoadRelaxed(list + at) : 0;
    const bool leads = active && Leads(a.keys, e.map, mask, i);
    __syncwarp();
    const uint64_t l = Append(e.counters + kLeaders, leads);
    if (leads) e.leaders[l] = i;
    const uint64_t f = Append(e.counters + kFollowers, active && !leads);
    if (active && !leads) e.followers[f] = i;
  }
}

// Adds to a score what the lanes with `adds` give; those with equal positions as one.
__device__ __forceinline__ void AddScores(const View& t, const UpsertArgs& a, uint32_t position,
                                          uint64_t given, bool adds) {
  const uint32_t lane = threadIdx.x & 31;
  const unsigned adders = __ballot_sync(kFullMask, adds);
  const unsigned equal = adds ? __match_any_sync(adders, position) : 0;
  __syncwarp();
  uint64_t sum = 0;
#pragma unroll 1
  for (unsigned left = adders; left != 0; left &= left - 1) {
    const uint32_t other = __ffs(left) - 1;
    const uint64_t more = __shfl_sync(kFullMask, given, other);
    if (equal >> other & 1) sum = SaturatingAdd(sum, more);
  }
  if (!adds || __ffs(equal) - 1 != lane) return;
  auto* const score = reinterpret_cast<unsigned long long*>(t.ScoreAt(position));
  if (a.rule == ScoreRule::kAdd) {
    // Whoever makes the score wrap sets it to the maximum after that.
    if (atomicAdd(score, sum) > kMaxScore - sum) atomicExch(score, kMaxScore);
  } else {
    for (unsigned long long old = *score, now = ~old; now != old;) {
      now = old;
      old = atomicCAS(score, now, HitScore(a.rule, now, sum, 0, a.epoch));
    }
  }
}

// Adds the delta rows of the lanes with `row` to it; those of equal rows as one.
template <class Value>
__device__ __forceinline__ void AddDeltas(const char* delta, char* row, uint32_t row_bytes) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t dim = row_bytes / sizeof(Value);
  unsigned left = __ballot_sync(kFullMask, row != nullptr);
  const unsigned equal =
      row != nullptr ? __match_any_sync(left, reinterpret_cast<unsigned long long>(row)) : 0;
  __syncwarp();
#pragma unroll 1
  while (left != 0) {
    const uint32_t owner = __ffs(left) - 1;
    const unsigned members = __shfl_sync(kFullMask, equal, owner);
    auto* const to = reinterpret_cast<Value*>(
        __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(row), owner));
#pragma unroll 1
    for (uint32_t first = 0; first < dim; first += 32) {
      const uint32_t column = first + lane;
      SumOf<Value> sum = 0;
#pragma unroll 1
      for (unsigned m = members; m != 0; m &= m - 1) {
        const auto from = reinterpret_cast<const Value*>(
            __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(delta), __ffs(m) - 1));
        if (column < dim) sum += static_cast<SumOf<Value>>(from[column]);
      }
      if (column < dim) AtomicAdd(to + column, sum);
    }
    left &= ~members;
  }
}

template <WriteMode kMode, class Value>
__device__ __forceinline__ void Follow(const View& t, const UpsertArgs& a, const Equals& e,
                                       WarpScratch& scratch) {
  constexpr bool kReads = ReadsValues(kMode);
  constexpr bool kAccum = kMode == WriteMode::kAccumOrAssign;
  const uint64_t size = Load(e.counters + kFollowers), keys = size + Load(e.counters + kLeaders);
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t slot = ThreadIndex(); slot < MapSize(keys); slot += step) e.map[slot] = kNone;
  for (uint64_t at = ThreadIndex(); (at & ~uint64_t{31}) < size; at += step) {
    const bool active = at < size;
    const uint64_t i = active ? LoadRelaxed(e.followers + at) : 0;
    uint32_t position = kNone;
    bool late = false, counts = false;
    if (active) {
      const uint64_t key = a.keys[i];
      position = FindKey<false, true>(t, t.layout.PlaceOf(key), key).position;
      if (position == kNone) {
        late = Inserts(kMode);
      } else if (!kAccum || a.accums[i]) {
        late = (!kReads && t.IsPinned(position)) ||
               (kAccum && t.RowOf(position) >= t.num_hbm_rows);  // no atomics there
        counts = !late;
      }
    }
    __syncwarp();
    if (AddsUp(a.rule)) {
      const uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
      AddScores(t, a, position, given, counts);
      __syncwarp();
    }
    char* const row = counts ? t.RowAt(position) : nullptr;
    if (active && !late) {
      const uint64_t score =
          counts && a.out_scores != nullptr ? LoadRelaxed(t.ScoreAt(position)) : 0;
      Report(t, a, i, counts ? kUpdated : kSkipped, counts ? position : kNone, score);
      if (counts && a.pin) HoldRow(t, position);
    }
    char* const mine = a.values != nullptr ? a.values + i * a.pitch : nullptr;
    if constexpr (kAccum) {
      AddDeltas<Value>(mine, row, t.row_bytes);
    } else if (kReads && mine != nullptr) {
      CopyRows<kUpsertUnroll, false>(scratch, row, mine, t.row_bytes, a.word_bytes);
    }
    const uint64_t l = Append(e.counters + kLate, late);
    if (late) e.leaders[l] = static_cast<uint32_t>(i);
  }
}

}  // namespace device
}  // namespace hkv
