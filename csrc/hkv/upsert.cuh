// File: upsert.cuh
//
// Every call that inserts, writes values or touches scores by key does it here.
//
// A warp works on 32 keys in rounds until all are done (or some have waited too long: equals.cuh).
// In a round a lane looks its key up; chooses the key's slot, or a free one, or the one with the
// smallest score; takes the slot's busy bit and, for a new key, the key's lock; then the warp moves
// the rows and gives everything back. A lane that loses a race looks again in the next round. No
// lane ever waits while it holds something, so there is no deadlock.
//
// One key never gets two slots: inserting needs the key's lock in the version that was read before
// the lookup that missed it, and an insertion changes the version. Rows are never torn: they are
// written and read under their busy bit. Equal keys inside a warp act through one lane; equal keys
// elsewhere in the batch take their turns.
#pragma once

#include "csrc/hkv/calls.h"
#include "csrc/hkv/copy.cuh"
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
};

// The table's clock, for strategies that look at it.
template <EvictStrategy kStrategy>
__device__ __forceinline__ uint64_t Now(const UpsertArgs& a) {
  return NeedsClock(RuleOf(kStrategy)) ? GlobalTimer() + a.clock_offset : 0;
}

// Results of a settled key.
__device__ __forceinline__ void Report(const UpsertArgs& a, uint64_t i, uint8_t status, char* row,
                                       uint64_t score) {
  if (a.founds != nullptr) a.founds[i] = status == kUpdated;
  if (a.rows != nullptr) a.rows[i] = row;
  if (a.out_scores != nullptr && status >= kUpdated && status <= kEvicted) a.out_scores[i] = score;
  if (a.status != nullptr) a.status[i] = status;
}

constexpr int kUpsertBlocks = 4;  // resident per multiprocessor
constexpr int kUpsertUnroll = 4;  // row words of a lane in flight
constexpr int kEvictDepth = 2;    // buckets whose scores a warp reads at a time

// A lane's share of a bucket: slots 4 * lane ... 4 * lane + 3.
struct SlotScores {
  uint64_t score[4];
  uint32_t barred;  // a bit per slot that may not be evicted now; << 8: not in this call
};

// kShared: rows may be in use by other warps, and those may not go.
template <bool kShared>
__device__ __forceinline__ SlotScores LoadScores(const View& t, uint32_t bucket) {
  const uint32_t slot = (threadIdx.x & 31) * 4;
  const uint32_t position = bucket * kBucketSlots + slot;
  const auto* pairs = reinterpret_cast<const ulonglong2*>(t.ScoreAt(position));
  const ulonglong2 a = __ldcg(pairs), b = __ldcg(pairs + 1);
  SlotScores s = {{a.x, a.y, b.x, b.y}, 0};
  const uint32_t word = position / 32, shift = slot % 32;
  if (kShared) s.barred = LoadRelaxed(t.busy + word) >> shift & 15;
  if (t.pinned != nullptr) s.barred |= (LoadRelaxed(t.pinned + word) >> shift & 15) << 8;
  const uint32_t slots = t.layout.SlotsOf(bucket);
  const uint32_t here = slots > slot ? min(slots - slot, 4u) : 0;
  s.barred |= (0xfu << here & 0xf) << 8;
  return s;
}

// Loads the buckets `home` of the first lanes in `wanted`, as many as there is room for; their
// loads are in flight together. Whole warps only.
template <bool kShared, int kDepth>
__device__ __forceinline__ void LoadScoresOf(const View& t, unsigned wanted, uint32_t home,
                                             SlotScores (&scores)[kDepth]) {
#pragma unroll
  for (int u = 0; u < kDepth; ++u) {
    if (wanted == 0) continue;
    scores[u] = LoadScores<kShared>(t, __shfl_sync(kFullMask, home, __ffs(wanted) - 1));
    wanted &= wanted - 1;
  }
}

struct Victim {
  uint32_t slot = kNone;
  uint64_t score = 0;
};

// The slot with the smallest score of a warp's bucket; among equals the first one. Whole warps
// only.
__device__ __forceinline__ Victim SmallestScore(const SlotScores& s) {
  const uint32_t lane = threadIdx.x & 31;
  // Slots that may not go count as kMaxScore; a slot that may wins among equals.
  const uint32_t bars = s.barred | s.barred >> 8;
  uint64_t best = bars & 1 ? kMaxScore : s.score[0];
  uint32_t best_slot = 0;
#pragma unroll
  for (int i = 1; i < 4; ++i) {
    const uint64_t other = bars >> i & 1 ? kMaxScore : s.score[i];
    if (other < best || (other == best && (bars >> best_slot & 1))) {
      best = other;
      best_slot = i;
    }
  }
  const bool any = (bars >> best_slot & 1) == 0;
  const uint32_t high = __reduce_min_sync(kFullMask, static_cast<uint32_t>(best >> 32));
  const bool in_high = static_cast<uint32_t>(best >> 32) == high;
  const uint32_t low =
      __reduce_min_sync(kFullMask, in_high ? static_cast<uint32_t>(best) : 0xffffffffu);
  const unsigned winners =
      __ballot_sync(kFullMask, any && in_high && static_cast<uint32_t>(best) == low);
  Victim victim;
  const uint32_t slot =
      __shfl_sync(kFullMask, lane * 4 + best_slot, winners != 0 ? __ffs(winners) - 1 : 0);
  victim.slot = winners != 0 ? slot : kNone;
  victim.score = static_cast<uint64_t>(high) << 32 | low;
  return victim;
}

// The slot with the smallest score in the home bucket of every lane in `wanted`. *blocked: some
// slot was busy, so there may be another victim later.
__device__ __forceinline__ Victim FindVictims(const View& t, unsigned wanted, uint32_t home,
                                              bool* blocked) {
  const uint32_t lane = threadIdx.x & 31;
  Victim mine;
#pragma unroll 1
  while (wanted != 0) {
    SlotScores scores[kEvictDepth];
    LoadScoresOf<true>(t, wanted, home, scores);
#pragma unroll
    for (int u = 0; u < kEvictDepth; ++u) {
      if (wanted == 0) break;
      const uint32_t owner = __ffs(wanted) - 1;
      wanted &= wanted - 1;
      const Victim victim = SmallestScore(scores[u]);
      const uint32_t barred = scores[u].barred;
      const bool waits = __ballot_sync(kFullMask, (barred & ~(barred >> 8) & 15) != 0) != 0;
      if (lane == owner) {
        mine = victim;
        *blocked = waits;
      }
    }
  }
  return mine;
}

// Adds the lanes' delta rows to their table rows.
template <class Value>
__device__ __forceinline__ void AddRows(const char* deltas, char* rows, uint32_t row_bytes) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t dim = row_bytes / sizeof(Value);
  for (unsigned left = __ballot_sync(kFullMask, rows != nullptr); left != 0; left &= left - 1) {
    const int owner = __ffs(left) - 1;
    const auto delta = reinterpret_cast<const Value*>(
        __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(deltas), owner));
    const auto row = reinterpret_cast<Value*>(
        __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(rows), owner));
    for (uint32_t i = lane; i < dim; i += 32) {
      const float sum = static_cast<float>(__ldcg(row + i)) + static_cast<float>(delta[i]);
      row[i] = static_cast<Value>(sum);
    }
  }
}

// Gives the row of a present key its score after this call, and returns it.
template <EvictStrategy kStrategy>
__device__ __forceinline__ uint64_t Touch(const View& t, const UpsertArgs& a, uint32_t position,
                                          uint64_t given, uint64_t now) {
  if (!a.touch_scores) return a.out_scores != nullptr ? LoadRelaxed(t.ScoreAt(position)) : 0;
  uint64_t score = given;
  if (!a.verbatim) {
    const uint64_t old = AddsUp(RuleOf(kStrategy)) ? LoadRelaxed(t.ScoreAt(position)) : 0;
    score = HitScore(RuleOf(kStrategy), old, given, now, a.epoch);
  }
  StoreRelaxed(t.ScoreAt(position), score);
  return score;
}

// The lanes with this lane's key.
__device__ __forceinline__ unsigned EqualLanes(uint32_t lane, bool active, uint64_t key) {
  unsigned equal = 1u << lane;
  const unsigned actives = __ballot_sync(kFullMask, active);
  equal &= actives;
  if (active) equal = __match_any_sync(actives, key);
  __syncwarp();
  return equal;
}

// The sum of what the lanes with `equal` keys were given.
__device__ __forceinline__ uint64_t SumOfEquals(unsigned equal, uint64_t given) {
  uint64_t sum = 0;
  for (int j = 0; j < 32; ++j) {
    const uint64_t other = __shfl_sync(kFullMask, given, j);
    if (equal >> j & 1) sum = SaturatingAdd(sum, other);
  }
  return sum;
}

struct KeyRow {
  uint64_t key, score;
  const char* row;
};

// Lists the rows that leave: of the lanes with `out`, theirs or, with `replaced`, the old ones.
__device__ __forceinline__ void ListEvicted(const View& t, const UpsertArgs& a,
                                            WarpScratch& scratch, bool out, bool replaced,
                                            const KeyRow& old, const KeyRow& mine) {
  const uint64_t entry = Append(Counter(a.evicted_count), out);
  if (out) {
    a.evicted_keys[entry] = replaced ? old.key : mine.key;
    if (a.evicted_scores != nullptr) a.evicted_scores[entry] = replaced ? old.score : mine.score;
  }
  CopyRows<kUpsertUnroll, false>(scratch,
                                 !out       ? nullptr
                                 : replaced ? old.row
                                            : mine.row,
                                 a.evicted_values + entry * t.row_bytes, t.row_bytes, a.word_bytes);
}

// Moves values between the rows of the lanes with `holds` (`fresh`: of a new key) and the caller's.
template <WriteMode kMode, class Value>
__device__ __forceinline__ void MoveValues(const View& t, const UpsertArgs& a, WarpScratch& scratch,
                                           bool active, uint32_t leader, uint32_t held, bool fresh,
                                           char* row, char* mine) {
  const bool holds = held != kNone;
  if (ReadsValues(kMode)) {
    // Followers of this warp take what their leader read, or what it inserted.
    const bool leader_holds = __shfl_sync(kFullMask, holds, leader) && active;
    const bool leader_fresh = __shfl_sync(kFullMask, fresh, leader);
    const auto leader_row = reinterpret_cast<const char*>(
        __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(row), leader));
    const auto leader_values = reinterpret_cast<const char*>(
        __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(mine), leader));
    const bool inserts = holds && fresh;
    const bool follows = leader_holds && !inserts;
    CopyRows<kUpsertUnroll, false>(scratch,
                                   inserts   ? mine
                                   : follows ? (leader_fresh ? leader_values : leader_row)
                                             : nullptr,
                                   inserts ? row : mine, t.row_bytes, a.word_bytes);
  } else if (kMode == WriteMode::kAccumOrAssign) {
    AddRows<Value>(mine, holds && !fresh ? row : nullptr, t.row_bytes);
    CopyRows<kUpsertUnroll, false>(scratch, holds && fresh ? mine : nullptr, row, t.row_bytes,
                                   a.word_bytes);
  } else {
    CopyRows<kUpsertUnroll, false>(scratch, holds ? mine : nullptr, row, t.row_bytes, a.word_bytes);
  }
}

// What became of a lane's key so far.
struct Outcome {
  bool pending = false;  // nothing yet
  uint8_t status = kSkipped;
  char* row = nullptr;  // for a.rows
  bool found = false;
  uint64_t score = 0;
};

// Tells the results of every lane, which are those of its leader. True: there are none yet.
__device__ __forceinline__ bool ReportAll(const UpsertArgs& a, uint64_t i, uint32_t lane,
                                          bool active, uint32_t leader, Outcome o) {
  const bool left = __shfl_sync(kFullMask, o.pending, leader);
  const bool leader_found = __shfl_sync(kFullMask, o.found, leader);
  const uint32_t leader_status = __shfl_sync(kFullMask, static_cast<uint32_t>(o.status), leader);
  const uint64_t leader_score = __shfl_sync(kFullMask, o.score, leader);
  const auto leader_row =
      __shfl_sync(kFullMask, reinterpret_cast<unsigned long long>(o.row), leader);
  if (!active || left) return left;
  const bool stored = leader_status >= kUpdated && leader_status <= kEvicted;
  const bool follows_insert =
      leader != lane && (leader_status == kInserted || leader_status == kEvicted);
  if (a.founds != nullptr) a.founds[i] = leader_found || follows_insert;
  if (a.rows != nullptr) a.rows[i] = reinterpret_cast<void*>(leader_row);
  if (a.out_scores != nullptr && stored) a.out_scores[i] = leader_score;
  if (a.status != nullptr) a.status[i] = follows_insert ? kUpdated : leader_status;
  return false;
}

constexpr int kManyRounds = 4;  // that a key may lose before it is left for later

// The lanes' keys, of which i is the index. True: nothing was done with this lane's, which lost too
// many races; never if `patient`. Value matters to accum_or_assign alone; the other modes pass
// char.
template <EvictStrategy kStrategy, WriteMode kMode, class Value>
__device__ __forceinline__ bool UpsertKeys(const View& t, const UpsertArgs& a, WarpScratch& scratch,
                                           uint64_t i, bool active, bool patient) {
  constexpr bool kInserts = Inserts(kMode), kReads = ReadsValues(kMode);
  constexpr bool kAccum = kMode == WriteMode::kAccumOrAssign;
  constexpr bool kEvicts = kMode == WriteMode::kInsertAndEvict;
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t key = active ? a.keys[i] : 0;
  const Place place = t.layout.PlaceOf(key);
  const bool accum = kAccum && active && a.accums[i];
  uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
  // Equal keys of the warp: the last one writes, the first one of a find inserts; deltas all count.
  const unsigned equal = kAccum ? 1u << lane : EqualLanes(lane, active, key);
  const uint32_t leader = !active ? lane : kReads ? __ffs(equal) - 1 : 31 - __clz(equal);
  if (AddsUp(RuleOf(kStrategy)) && __ballot_sync(kFullMask, (equal & (equal - 1)) != 0) != 0) {
    const uint64_t sum = SumOfEquals(equal, given);
    if (!a.verbatim) given = sum;
  }

  Outcome o = {active && leader == lane, kSkipped, nullptr, false, 0};
  for (int round = 0; __ballot_sync(kFullMask, o.pending) != 0; ++round) {
    if (!patient && round == kManyRounds) break;
    // -- look up
    uint32_t version = 0;
    if (kInserts && o.pending) {
      version = LoadAcquire(t.locks + place.home * kLocksPerBucket + place.tag % kLocksPerBucket);
    }
    Found at;
    if (o.pending) at = FindKey<kInserts, true>(t, place, key);
    __syncwarp();

    // -- choose a slot: the key's own, a free one, or the one with the smallest score at home
    bool hit = o.pending && at.position != kNone;
    bool inserts = o.pending && !hit;
    if (hit && ((kAccum && !accum) || (!kReads && t.IsPinned(at.position)))) {
      if (!kAccum || accum) o.status = kLocked;
      hit = o.pending = false;
    }
    if (inserts && (!kInserts || (kAccum && accum))) inserts = o.pending = false;
    const uint64_t now = Now<kStrategy>(a);
    const uint64_t new_score = !inserts     ? 0
                               : a.verbatim ? given
                                            : InsertScore(RuleOf(kStrategy), given, now, a.epoch);
    uint32_t target = hit ? at.position : at.room;
    const bool evicts = inserts && at.room == kNone;
    bool refused = false;
    uint64_t old_score = 0;
    const unsigned evictors = kInserts ? __ballot_sync(kFullMask, evicts) : 0;
    if (evictors != 0) {
      bool blocked = false;
      const Victim victim = FindVictims(t, evictors, place.home, &blocked);
      if (evicts) {
        old_score = victim.score;
        refused = victim.slot == kNone ? !blocked : new_score < victim.score;
        if (victim.slot != kNone) target = place.home * kBucketSlots + victim.slot;
        inserts = !refused && victim.slot != kNone;
      }
    }

    // -- take the row, and for a new key the right to insert it
    uint32_t* const lock = t.locks + place.home * kLocksPerBucket + place.tag % kLocksPerBucket;
    bool got_row = false, got_key = false;
    if (inserts && (version & 1) == 0) got_key = atomicCAS(lock, version, version | 1) == version;
    if (hit || got_key) got_row = TryLockRow(t, target);
    // Meanwhile the row may have gone to another key, and the slot may have been taken.
    uint64_t key_there = key, old_key = 0, score_there = old_score;
    uint32_t digest_there = kEmpty;
    if (kInserts && hit) key_there = LoadRelaxed(t.KeyAt(target));
    if (kEvicts && evicts && inserts) old_key = LoadRelaxed(t.KeyAt(target));
    if (evicts && inserts) score_there = LoadRelaxed(t.ScoreAt(target));
    if (inserts && !evicts) digest_there = LoadRelaxed(t.digests + target);
    const bool valid = key_there == key && score_there == old_score && digest_there <= kReclaimed;
    const bool fresh = inserts && got_row && got_key && valid;
    const bool replaced = fresh && evicts;
    const uint32_t held = fresh || (hit && got_row && valid) ? target : kNone;
    if (got_row && held == kNone) UnlockRow(t, target);
    if (got_key && !fresh) StoreRelaxed(lock, version);

    // -- keys, scores, digests
    if (fresh) {
      StoreRelaxed(t.KeyAt(held), key);
      StoreRelaxed(t.ScoreAt(held), new_score);
      StoreRelaxed(t.digests + held, place.tag);
      o.status = replaced ? kEvicted : kInserted;
      o.score = new_score;
    } else if (held != kNone) {
      o.found = true;
      o.status = kUpdated;
      o.score = Touch<kStrategy>(t, a, held, given, now);
    }
    if (refused) {
      o.status = kRefused;
      o.pending = false;
    }

    // -- values
    if (held != kNone) {
      o.row = t.RowAt(held);
      if (a.pin) atomicOr(t.pinned + (held >> 5), 1u << (held & 31));
    }
    char* const mine = a.values != nullptr ? a.values + i * t.row_bytes : nullptr;
    __syncwarp();
    if (kEvicts) {
      ListEvicted(t, a, scratch, replaced || refused, replaced, {old_key, old_score, o.row},
                  {key, new_score, mine});
    }
    if (a.values != nullptr) {
      MoveValues<kMode, Value>(t, a, scratch, active, leader, held, fresh, o.row, mine);
    }
    // -- give everything back; one fence for the rows, the keys and the digests
    __syncwarp();
    if (held != kNone) {
      Fence();
      if (fresh) StoreRelaxed(lock, version + 2);
      UnlockRow(t, held);
      o.pending = false;
    }
  }
  return ReportAll(a, i, lane, active, leader, o);
}

}  // namespace device
}  // namespace hkv
