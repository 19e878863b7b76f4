// File: passes.cuh
//
// A large batch is written in passes, each with few accesses that wait for one another and many
// keys in flight:
//
//   claim  finds every key; a present key gets its new score, an absent one a free slot
//   rows   moves the rows of both
//   evict  absent keys without a free slot, bucket by bucket: the smallest score leaves
//   rows   moves the rows of those
//   rest   what a pass could not settle goes through UpsertKernel
//
// A call has the table to itself, so nothing needs a lock: a filter lets only the first of equal
// keys (and now and then a stranger of the same bits) into the passes, the others are the rest; a
// free slot is claimed in its digest, which becomes the key's tag when the key is there; a bucket's
// evictions are made by one thread.
#pragma once

#include "csrc/hkv/upsert_kernel.cuh"

namespace hkv {
namespace device {

enum PassCounter { kBuckets, kVictims, kRest, kNumPassCounters };

// One key that the evict pass has settled.
struct alignas(16) Eviction {
  uint32_t i;         // of the batch
  uint32_t position;  // its row, which holds the evicted one's values; kNone: refused
  uint64_t entry;     // of evicted_*
};

struct Plan {
  unsigned long long* counters = nullptr;  // (kNumPassCounters)
  uint32_t* filter = nullptr;              // bits of the keys that were seen
  uint32_t filter_mask = 0;                // its words - 1
  uint32_t* positions = nullptr;           // (n) of the row to move in the first rows pass, or kNone
  bool* fresh = nullptr;                   // (n) the row belongs to a new key
  uint32_t* waiting = nullptr;     // (num_buckets) a key that needs an eviction, or kNone; all
                                   // kNone between calls
  uint32_t* next_waiting = nullptr;  // (n) the next key of the same bucket
  uint32_t* buckets = nullptr;       // (n) those with keys that wait
  Eviction* evictions = nullptr;     // (n)
  uint32_t* rest = nullptr;          // (n)
};

// Results of a settled key.
__device__ __forceinline__ void Report(const UpsertArgs& a, uint64_t i, uint8_t status, char* row,
                                       uint64_t score) {
  if (a.founds != nullptr) a.founds[i] = status == kUpdated;
  if (a.rows != nullptr) a.rows[i] = row;
  if (a.out_scores != nullptr && status >= kUpdated && status <= kEvicted) a.out_scores[i] = score;
  if (a.status != nullptr) a.status[i] = status;
}

// Claims a free slot, `room` or one of the same four; kNone when others took them all.
__device__ __forceinline__ uint32_t ClaimSlot(const View& t, uint32_t room) {
  auto* const word = reinterpret_cast<uint32_t*>(t.digests + (room & ~3u));
  uint32_t digests = LoadRelaxed(word), wanted = room & 3;
  for (;;) {
    const uint32_t free = ZeroBytes(digests & 0xfefefefeu);  // the lowest set bit is a true one
    if (free == 0) return kNone;
    if ((digests >> 8 * wanted & 0xff) > kReclaimed) wanted = (__ffs(free) - 1) / 8;
    const uint32_t claimed =
        (digests & ~(0xffu << 8 * wanted)) | static_cast<uint32_t>(kClaimed) << 8 * wanted;
    const uint32_t old = atomicCAS(word, digests, claimed);
    if (old == digests) return (room & ~3u) + wanted;
    digests = old;
  }
}

constexpr int kClaimBlocks = 8;  // resident per multiprocessor
constexpr int kClaimRounds = 3;  // looks for a free slot before a key is left to the rest

template <EvictStrategy kStrategy, UpsertMode kMode>
__global__ void __launch_bounds__(kThreads, kClaimBlocks)
    ClaimKernel(const View t, const UpsertArgs a, const Plan p) {
  constexpr bool kInserts = kMode != UpsertMode::kAssign && kMode != UpsertMode::kFindAndUpdate;
  constexpr bool kReads = kMode == UpsertMode::kFindOrInsert || kMode == UpsertMode::kFindAndUpdate;
  __shared__ WarpScratch scratches[kThreads / 32];
  WarpScratch& scratch = scratches[threadIdx.x / 32];
  const uint64_t i = ThreadIndex();
  const bool active = i < a.n;
  const uint64_t key = active ? a.keys[i] : 0;
  const Place place = t.layout.PlaceOf(key);
  const uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
  uint32_t seen = 0;
  if (active) {
    const uint32_t bit = 1u << (place.bits & 31);
    seen = atomicOr(p.filter + (place.bits >> 5 & p.filter_mask), bit) & bit;
  }

  uint32_t position = kNone;
  bool hit = false, fresh = false, waits = false, left = false;
  bool pending = active;
#pragma unroll 1
  for (int round = 0; __ballot_sync(kFull, pending) != 0; ++round) {
    if (round == kClaimRounds) {
      left |= pending;
      break;
    }
    const Found at = FindKeys<kInserts>(t, scratch, pending, place, key);
    if (!pending) continue;
    pending = false;
    if (seen != 0) {
      left = true;
    } else if (at.position != kNone) {
      position = at.position;
      left = !kReads && t.IsPinned(position);
      hit = !left;
    } else if (kInserts && at.room == kNone) {
      waits = true;
    } else if (kInserts) {
      position = ClaimSlot(t, at.room);
      fresh = position != kNone;
      pending = !fresh;
    }
  }

  const uint64_t now = NeedsClock(kStrategy) ? GlobalTimer() : 0;
  uint64_t score = 0;
  if (hit) {
    score = Touch<kStrategy>(t, a, position, given, now);
  } else if (fresh) {
    score = a.verbatim ? given : InsertScore(kStrategy, given, now, a.epoch);
    StoreRelaxed(t.keys + position, key);
    StoreRelaxed(t.scores + position, score);
    Fence();
    StoreRelaxed(t.digests + position, place.tag);
  }
  bool first = false;
  if (kInserts && waits) {
    const uint32_t other = atomicExch(p.waiting + place.home, static_cast<uint32_t>(i));
    p.next_waiting[i] = other;
    first = other == kNone;
  }
  if (kInserts) {
    const uint64_t at = Append(p.counters + kBuckets, first);
    if (first) p.buckets[at] = place.home;
  }
  const uint64_t at = Append(p.counters + kRest, left);
  if (left) p.rest[at] = static_cast<uint32_t>(i);
  if (!active) return;
  p.positions[i] = hit || fresh ? position : kNone;
  if (kInserts && kReads) p.fresh[i] = fresh;
  if (left || waits) return;
  Report(a, i, hit ? kUpdated : fresh ? kInserted : kSkipped,
         a.rows != nullptr && (hit || fresh) ? t.RowAt(position) : nullptr, score);
}

constexpr int kRowsBlocks = 8;  // resident per multiprocessor
constexpr int kRowsUnroll = 4;  // row words of a lane in flight

// Moves the rows of the claim pass.
template <UpsertMode kMode>
__global__ void __launch_bounds__(kThreads, kRowsBlocks)
    RowsKernel(const View t, const UpsertArgs a, const Plan p) {
  __shared__ WarpScratch scratches[kThreads / 32];
  const uint64_t i = ThreadIndex();
  const uint32_t position = i < a.n ? p.positions[i] : kNone;
  const bool moves = position != kNone;
  const bool reads = kMode == UpsertMode::kFindAndUpdate ||
                     (kMode == UpsertMode::kFindOrInsert && moves && !p.fresh[i]);
  char* const row = moves ? t.RowAt(position) : nullptr;
  char* const mine = moves ? a.values + i * t.row_bytes : nullptr;
  CopyRows<kRowsUnroll, true>(scratches[threadIdx.x / 32], reads ? row : mine, reads ? mine : row,
                              t.row_bytes, a.word_bytes);
}

// A thread makes the evictions of one bucket, one after the other.
template <EvictStrategy kStrategy, UpsertMode kMode>
__global__ void __launch_bounds__(kThreads, kUpsertBlocks)
    EvictKernel(const View t, const UpsertArgs a, const Plan p) {
  constexpr bool kEvicts = kMode == UpsertMode::kInsertAndEvict;
  __shared__ VictimScores victim_scores[kThreads / 32];
  const uint64_t size = p.counters[kBuckets];
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t b = ThreadIndex(); (b & ~uint64_t{31}) < size; b += step) {
    const uint32_t bucket = b < size ? p.buckets[b] : 0;
    uint32_t i = b < size ? p.waiting[bucket] : kNone;
    if (i != kNone) p.waiting[bucket] = kNone;
    uint64_t taken[2] = {0, 0};  // the slots given to keys of this call
    unsigned wanted;
    while ((wanted = __ballot_sync(kFull, i != kNone)) != 0) {
      const bool active = i != kNone;
      const uint32_t next = active ? p.next_waiting[i] : kNone;
      const uint64_t key = active ? a.keys[i] : 0;
      const uint64_t given = a.scores != nullptr && active ? a.scores[i] : kMaxScore;
      const Victim victim =
          FindVictims<false>(t, victim_scores[threadIdx.x / 32], wanted, bucket);
      const uint64_t now = NeedsClock(kStrategy) ? GlobalTimer() : 0;
      const uint64_t score = a.verbatim ? given : InsertScore(kStrategy, given, now, a.epoch);
      const bool refused = active && (victim.slot == kNone || score < victim.score);
      bool replaced = active && !refused;
      // A row moves once in a pass.
      const bool left =
          replaced && ((victim.slot < 64 ? taken[0] : taken[1]) >> (victim.slot & 63) & 1) != 0;
      replaced = replaced && !left;
      const uint32_t position = bucket * kBucketSlots + victim.slot;
      const bool out = kEvicts && (replaced || refused);
      uint64_t entry = 0;
      if (kEvicts) {
        entry = Append(a.evicted_count, out);
        if (out) {
          a.evicted_keys[entry] = replaced ? LoadRelaxed(t.keys + position) : key;
          if (a.evicted_scores != nullptr) a.evicted_scores[entry] = replaced ? victim.score : score;
        }
      }
      if (replaced) {
        (victim.slot < 64 ? taken[0] : taken[1]) |= uint64_t{1} << (victim.slot & 63);
        StoreRelaxed(t.keys + position, key);
        StoreRelaxed(t.scores + position, score);
        StoreRelaxed(t.digests + position, t.layout.PlaceOf(key).tag);
      }
      if (a.values != nullptr) {
        const bool moves = replaced || out;
        const uint64_t at = Append(p.counters + kVictims, moves);
        if (moves) p.evictions[at] = Eviction{i, replaced ? position : kNone, entry};
      }
      const uint64_t at = Append(p.counters + kRest, left);
      if (left) p.rest[at] = i;
      if (replaced || refused) {
        Report(a, i, replaced ? kEvicted : kRefused,
               replaced && a.rows != nullptr ? t.RowAt(position) : nullptr, score);
      }
      i = next;
    }
  }
}

// Moves the rows of the evict pass: first what leaves, then what comes.
template <bool kEvicts>
__global__ void __launch_bounds__(kThreads, kRowsBlocks)
    EvictedRowsKernel(const View t, const UpsertArgs a, const Plan p) {
  __shared__ WarpScratch scratches[kThreads / 32];
  WarpScratch& scratch = scratches[threadIdx.x / 32];
  const uint64_t size = p.counters[kVictims];
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t at = ThreadIndex(); (at & ~uint64_t{31}) < size; at += step) {
    const bool active = at < size;
    const Eviction e = active ? p.evictions[at] : Eviction{0, kNone, 0};
    char* const row = e.position != kNone ? t.RowAt(e.position) : nullptr;
    char* const mine = a.values + e.i * static_cast<uint64_t>(t.row_bytes);
    if (kEvicts) {
      CopyRows<kRowsUnroll, false>(scratch,
                                   row != nullptr ? row
                                   : active       ? mine
                                                  : nullptr,
                                   a.evicted_values + e.entry * t.row_bytes, t.row_bytes,
                                   a.word_bytes);
      __syncwarp();
    }
    CopyRows<kRowsUnroll, true>(scratch, row != nullptr ? mine : nullptr, row, t.row_bytes,
                                a.word_bytes);
  }
}

}  // namespace device
}  // namespace hkv
