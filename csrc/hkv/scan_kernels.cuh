// File: scan_kernels.cuh
//
// Calls that walk the slots instead of the keys: export, size, erase_if, clear.
#pragma once

#include "csrc/hkv/calls.h"
#include "csrc/hkv/copy.cuh"

namespace hkv {
namespace device {

struct ExportArgs : Export {
  uint32_t word_bytes = 16;
  bool erase = false;  // erase the matching keys instead of writing them out
};

// A Predicate as the kernels ask.
struct InRange {
  Predicate p;

  __device__ __forceinline__ bool operator()(const View&, uint32_t, uint64_t key,
                                             uint64_t score) const {
    return (key & p.key_mask) == p.key_pattern && score >= p.score_min && score <= p.score_max;
  }
};

// A warp takes 32 rows; the matching ones are appended in one piece.
template <class Match>
__device__ __forceinline__ void ExportRow(const View& t, const ExportArgs& a, WarpScratch& scratch,
                                          uint64_t row, const Match& matches) {
  uint32_t position = kNone;
  uint64_t key = 0, score = 0;
  bool match = false;
  if (row < a.end) {
    uint32_t bucket, slot;
    t.layout.Locate(row, &bucket, &slot);
    position = bucket * kBucketSlots + slot;
    if (t.digests[position] >= kFirstTag) {
      key = *t.KeyAt(position);
      score = *t.ScoreAt(position);
      match = matches(t, position, key, score);
    }
  }
  if (a.erase) {
    match = match && !t.IsPinned(position);
    if (match) t.digests[position] = kReclaimed;
  }
  const uint64_t at = Append(Counter(a.count), match);
  if (match && a.keys != nullptr) a.keys[at] = key;
  if (match && a.scores != nullptr) a.scores[at] = score;
  if (a.values != nullptr) {
    CopyRows<8, true>(scratch, match ? t.RowAt(position) : nullptr, a.values + at * a.pitch,
                      t.row_bytes, a.word_bytes);
  }
}

template <int kBlock, class Match>
__global__ void __launch_bounds__(kBlock)
    ExportKernel(const View t, const ExportArgs a, const Match matches) {
  __shared__ WarpScratch scratches[kBlock / 32];
  ExportRow(t, a, scratches[threadIdx.x / 32], a.begin + ThreadIndex(), matches);
}

// Counts bits of (size) words.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    CountBitsKernel(const uint32_t* words, uint64_t size, unsigned long long* count) {
  uint32_t mine = 0;
  for (uint64_t i = ThreadIndex(); i < size; i += static_cast<uint64_t>(gridDim.x) * kBlock) {
    mine += __popc(words[i]);
  }
  mine = __reduce_add_sync(kFullMask, mine);
  if ((threadIdx.x & 31) == 0 && mine != 0) atomicAdd(count, mine);
}

// Counts live keys, 16 digests per thread and step.
template <int kBlock>
__global__ void __launch_bounds__(kBlock) CountKernel(const View t, unsigned long long* count) {
  const uint64_t lines = static_cast<uint64_t>(t.layout.num_buckets) * (kBucketSlots / 16);
  const uint4* digests = reinterpret_cast<const uint4*>(t.digests);
  uint32_t mine = 0;
  for (uint64_t i = ThreadIndex(); i < lines; i += static_cast<uint64_t>(gridDim.x) * kBlock) {
    const uint4 d = digests[i];
    const uint32_t tags = kFirstTag * 0x01010101u;
    mine += __popc(__vcmpgeu4(d.x, tags)) + __popc(__vcmpgeu4(d.y, tags)) +
            __popc(__vcmpgeu4(d.z, tags)) + __popc(__vcmpgeu4(d.w, tags));
  }
  mine = __reduce_add_sync(kFullMask, mine / 8);
  if ((threadIdx.x & 31) == 0 && mine != 0) atomicAdd(count, mine);
}

// Empties every bucket: digests, locks, busy and pinned bits.
template <int kBlock>
__global__ void __launch_bounds__(kBlock) ClearKernel(const View t) {
  const uint64_t bucket = ThreadIndex() / 32;
  const uint32_t lane = threadIdx.x & 31;
  if (bucket >= t.layout.num_buckets) return;
  const uint32_t slots = t.layout.SlotsOf(static_cast<uint32_t>(bucket));
  for (uint32_t slot = lane; slot < kBucketSlots; slot += 32) {
    t.digests[bucket * kBucketSlots + slot] = slot < slots ? kEmpty : kDisabled;
  }
  if (t.holders != nullptr) {
    for (uint32_t slot = lane; slot < kBucketSlots; slot += 32) {
      t.holders[bucket * kBucketSlots + slot] = 0;
    }
  }
  if (lane == 0) t.buckets[bucket] = {0, kNoSlots, 0, 0, kNone};
  if (lane < kLocksPerBucket) t.locks[bucket * kLocksPerBucket + lane] = 0;
  if (lane < kBucketSlots / 32) {
    t.busy[bucket * (kBucketSlots / 32) + lane] = 0;
    if (t.pinned != nullptr) t.pinned[bucket * (kBucketSlots / 32) + lane] = 0;
  }
}

}  // namespace device
}  // namespace hkv
