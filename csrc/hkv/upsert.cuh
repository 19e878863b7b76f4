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

#include "csrc/hkv/copy.cuh"
#include "csrc/hkv/value_math.cuh"
#include "csrc/hkv/victims.cuh"

namespace hkv {
namespace device {

// Where a key's row is, or that it has none.
__device__ __forceinline__ void ReportRow(const View& t, const UpsertArgs& a, uint64_t i,
                                          uint32_t position) {
  if (a.rows != nullptr) a.rows[i] = position != kNone ? t.RowAt(position) : nullptr;
  if (a.row_numbers != nullptr) a.row_numbers[i] = position != kNone ? t.RowOf(position) : kNoRow;
}

// Results of a settled key.
__device__ __forceinline__ void Report(const View& t, const UpsertArgs& a, uint64_t i,
                                       uint8_t status, uint32_t position, uint64_t score) {
  if (a.founds != nullptr) a.founds[i] = status == kUpdated;
  ReportRow(t, a, i, position);
  if (a.out_scores != nullptr && status >= kUpdated && status <= kEvicted) a.out_scores[i] = score;
  if (a.status != nullptr) a.status[i] = status;
}

constexpr int kUpsertBlocks = 4;  // resident per multiprocessor
constexpr int kUpsertUnroll = 4;  // row words of a lane in flight

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
      using Sum = SumOf<Value>;
      const Sum sum = static_cast<Sum>(__ldcg(row + i)) + static_cast<Sum>(delta[i]);
      row[i] = static_cast<Value>(sum);
    }
  }
}

// Gives the row of a present key its score after this call, and returns it.
__device__ __forceinline__ uint64_t Touch(const View& t, const UpsertArgs& a, uint32_t position,
                                          uint64_t given, uint64_t now) {
  if (a.rule == ScoreRule::kKept) {
    return a.out_scores != nullptr ? LoadRelaxed(t.ScoreAt(position)) : 0;
  }
  const uint64_t old = AddsUp(a.rule) ? LoadRelaxed(t.ScoreAt(position)) : 0;
  const uint64_t score = HitScore(a.rule, old, given, now, a.epoch);
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
  if (a.evicted_values == nullptr) return;
  CopyRows<kUpsertUnroll, false>(scratch,
                                 !out       ? nullptr
                                 : replaced ? old.row
                                            : mine.row,
                                 a.evicted_values + entry * a.pitch, t.row_bytes, a.word_bytes);
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
  uint32_t position = kNone;
  bool found = false;
  uint64_t score = 0;
};

// Tells the results of every lane, which are those of its leader. True: there are none yet.
__device__ __forceinline__ bool ReportAll(const View& t, const UpsertArgs& a, uint64_t i,
                                          uint32_t lane, bool active, uint32_t leader, Outcome o) {
  const bool left = __shfl_sync(kFullMask, o.pending, leader);
  const bool leader_found = __shfl_sync(kFullMask, o.found, leader);
  const uint32_t leader_status = __shfl_sync(kFullMask, static_cast<uint32_t>(o.status), leader);
  const uint64_t leader_score = __shfl_sync(kFullMask, o.score, leader);
  const uint32_t leader_position = __shfl_sync(kFullMask, o.position, leader);
  if (!active || left) return left;
  const bool stored = leader_status >= kUpdated && leader_status <= kEvicted;
  const bool follows_insert =
      leader != lane && (leader_status == kInserted || leader_status == kEvicted);
  if (a.founds != nullptr) a.founds[i] = leader_found || follows_insert;
  ReportRow(t, a, i, leader_position);
  if (a.out_scores != nullptr && stored) a.out_scores[i] = leader_score;
  if (a.status != nullptr) a.status[i] = follows_insert ? kUpdated : leader_status;
  return false;
}

// Puts a new key into the slot that the thread holds.
__device__ __forceinline__ void PutKey(const View& t, uint32_t position, uint64_t key,
                                       uint64_t score, uint32_t tag) {
  StoreRelaxed(t.KeyAt(position), key);
  StoreRelaxed(t.ScoreAt(position), score);
  StoreRelaxed(t.digests + position, tag);
}

// Whether the slot that was chosen for a new key, and is held now, is still free, or its row still
// the one that may leave: meanwhile it may have gone to another key, or been handed out.
__device__ __forceinline__ bool StillFree(const View& t, const UpsertArgs& a, uint32_t target,
                                          const Guard& guard, bool evicts, uint64_t score) {
  if (!evicts) return LoadRelaxed(t.digests + target) <= kReclaimed;
  const uint32_t bit = 1u << (target & 31);
  if (guard.number != 0 && (GivenBy(t, target >> 5, guard.number) & bit) != 0) return false;
  if (a.pin && (LoadRelaxed(t.pinned + (target >> 5)) & bit) != 0) return false;
  return LoadRelaxed(t.ScoreAt(target)) == score;
}

constexpr int kManyRounds = 4;  // that a key may lose before it is left for later

// The lanes' keys, of which i is the index. True: nothing was done with this lane's, which lost too
// many races; never if `patient`. Value matters to accum_or_assign alone; the other modes pass
// char.
template <WriteMode kMode, class Value>
__device__ __forceinline__ bool UpsertKeys(const View& t, const UpsertArgs& a, WarpScratch& scratch,
                                           const Guard& guard, uint64_t i, bool active,
                                           bool patient) {
  constexpr bool kInserts = Inserts(kMode), kReads = ReadsValues(kMode);
  constexpr bool kAccum = kMode == WriteMode::kAccumOrAssign;
  constexpr bool kRefusedLeave = kMode == WriteMode::kInsertAndEvict;
  constexpr bool kMayList = kRefusedLeave || kMode == WriteMode::kFindOrInsert;
  const bool lists = kRefusedLeave || (kMayList && a.evicted_keys != nullptr);
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t key = active ? a.keys[i] : 0;
  const Place place = t.layout.PlaceOf(key);
  const bool accum = kAccum && active && a.accums[i];
  uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
  // Equal keys of the warp: the last one writes, the first one of a find inserts; deltas all count.
  const unsigned equal = kAccum ? 1u << lane : EqualLanes(lane, active, key);
  const uint32_t leader = !active ? lane : kReads ? __ffs(equal) - 1 : 31 - __clz(equal);
  if (AddsUp(a.rule) && __ballot_sync(kFullMask, (equal & (equal - 1)) != 0) != 0) {
    given = SumOfEquals(equal, given);
  }

  Outcome o;
  o.pending = active && leader == lane;
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

    // -- choose a slot: the key's own, a free one, or the one with the smallest score
    bool hit = o.pending && at.position != kNone;
    bool inserts = o.pending && !hit;
    if (hit && ((kAccum && !accum) || (!kReads && t.IsPinned(at.position)))) {
      if (!kAccum || accum) o.status = kLocked;
      hit = o.pending = false;
    }
    if (inserts && (!kInserts || (kAccum && accum))) inserts = o.pending = false;
    const uint64_t now = Now(a);
    const uint64_t new_score = inserts ? InsertScore(a.rule, given, now, a.epoch) : 0;
    uint32_t target = hit ? at.position : at.room;
    const bool evicts = inserts && at.room == kNone;
    bool refused = false;
    Eviction eviction;
    const unsigned evictors = kInserts ? __ballot_sync(kFullMask, evicts) : 0;
    if (evictors != 0) {
      eviction = MakeEviction(t, a, place, guard, evicts, evictors, new_score);
      if (evicts) {
        const bool exists = eviction.position != kNone;
        refused = exists ? !Replaces(a, new_score, true, eviction.score) : !eviction.blocked;
        target = eviction.position;
        inserts = !refused && exists;
      }
    }

    // -- take the row, and for a new key the right to insert it
    uint32_t* const lock = t.locks + place.home * kLocksPerBucket + place.tag % kLocksPerBucket;
    bool got_row = false, got_key = false;
    if (inserts && (version & 1) == 0) got_key = atomicCAS(lock, version, version | 1) == version;
    if (hit || got_key) got_row = TryLockRow(t, target);
    uint64_t old_key = key;
    if (((kInserts && hit) || (kMayList && lists && evicts && inserts))) {
      old_key = LoadRelaxed(t.KeyAt(target));
    }
    const bool valid = hit ? !kInserts || old_key == key
                           : inserts && StillFree(t, a, target, guard, evicts, eviction.score);
    const bool fresh = inserts && got_row && got_key && valid;
    const bool replaced = fresh && evicts;
    const uint32_t held = fresh || (hit && got_row && valid) ? target : kNone;
    if (got_row && held == kNone) UnlockRow(t, target);
    if (got_key && !fresh) StoreRelaxed(lock, version);

    // -- keys, scores, digests
    if (fresh) {
      PutKey(t, held, key, new_score, place.tag);
      o.status = replaced ? kEvicted : kInserted;
      o.score = new_score;
      if (replaced) SetLevel(t, held / kBucketSlots, min(new_score, eviction.next));
    } else if (held != kNone) {
      o.found = true;
      o.status = kUpdated;
      o.score = Touch(t, a, held, given, now);
    }
    if (refused) {
      o.status = kRefused;
      o.pending = false;
    }

    // -- values
    char* row = nullptr;
    if (held != kNone) {
      o.position = held;
      row = t.RowAt(held);
      if (a.pin) HoldRow(t, held, __popc(equal));
      guard.Give(t, held);
    }
    char* const mine = a.values != nullptr ? a.values + i * a.pitch : nullptr;
    __syncwarp();
    if (kMayList && lists) {
      ListEvicted(t, a, scratch, replaced || (kRefusedLeave && refused), replaced,
                  {old_key, eviction.score, row}, {key, new_score, mine});
    }
    if (a.values != nullptr) {
      MoveValues<kMode, Value>(t, a, scratch, active, leader, held, fresh, row, mine);
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
  return ReportAll(t, a, i, lane, active, leader, o);
}

// Ends a call that handed out rows: the last block of its last kernel counts it. `count` tables,
// state(t) of each. Whole blocks, once a block, when all their work is done.
template <class StateOf>
__device__ __forceinline__ void EndCall(const UpsertArgs& a, uint32_t count, StateOf state) {
  if (!a.ends_call) return;
  __syncthreads();
  __shared__ bool last;
  if (threadIdx.x == 0) {
    last = atomicAdd(&state(0)->blocks_done, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  for (uint32_t t = threadIdx.x; t < count; t += kThreads) ++state(t)->calls;
  if (threadIdx.x == 0) state(0)->blocks_done = 0;
}

}  // namespace device
}  // namespace hkv
