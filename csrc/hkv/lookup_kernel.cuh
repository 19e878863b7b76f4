// File: lookup_kernel.cuh
//
// Read-only calls: find (values, pointers, missed keys) and contains; and the small calls that only
// need a key's position: erase, and those that change a row's holders.
#pragma once

#include "csrc/hkv/calls.h"
#include "csrc/hkv/copy.cuh"
#include "csrc/hkv/host_rows.cuh"
#include "csrc/hkv/probe.cuh"

namespace hkv {
namespace device {

struct LookupArgs : Read {
  uint64_t first = 0;  // the keys first ... n - 1 are looked up
  uint32_t word_bytes = 16;
  HostMoves host;  // rows for a HostRowsKernel
};

constexpr int kLookupBlocks = 8;  // resident per multiprocessor
constexpr int kLookupUnroll = 4;  // row words of a lane in flight

// Looks up the lanes' keys, of which i is the index. Whole warps only.
template <bool kValues>
__device__ __forceinline__ void LookUp(const View& t, const LookupArgs& a, WarpScratch& scratch,
                                       uint64_t i, bool active) {
  const uint64_t key = active ? a.keys[i] : 0;
  uint32_t position = kNone;
  if (active) position = FindKey<false, false>(t, t.layout.PlaceOf(key), key).position;
  __syncwarp();
  const bool found = position != kNone;
  char* row = found && (kValues || a.rows != nullptr) ? t.RowAt(position) : nullptr;
  if (active) {
    if (a.founds != nullptr) a.founds[i] = found;
    if (a.rows != nullptr) a.rows[i] = row;
    if (a.row_numbers != nullptr) a.row_numbers[i] = found ? t.RowOf(position) : kNoRow;
    if (a.scores != nullptr && found) a.scores[i] = *t.ScoreAt(position);
  }
  if (a.missed_keys != nullptr) {
    const bool missed = active && !found;
    const uint64_t at = Append(Counter(a.missed_size), missed);
    if (missed) {
      a.missed_keys[at] = key;
      a.missed_indices[at] = static_cast<int32_t>(i);
    }
  }
  if (kValues) {
    if (found && a.host.Take(t, position, i, true)) row = nullptr;
    CopyRows<kLookupUnroll, true>(scratch, row, a.values + i * a.pitch, t.row_bytes, a.word_bytes);
  }
}

template <bool kValues>
__global__ void __launch_bounds__(kThreads, kLookupBlocks)
    LookupKernel(const View t, const LookupArgs a) {
  __shared__ WarpScratch scratches[kThreads / 32];
  const uint64_t i = a.first + ThreadIndex();
  LookUp<kValues>(t, a, scratches[threadIdx.x / 32], i, i < a.n);
}

// Erases a key; returns what became of it.
__device__ __forceinline__ uint8_t EraseKey(const View& t, uint64_t key) {
  const uint32_t position = FindKey<false, true>(t, t.layout.PlaceOf(key), key).position;
  if (position == kNone) return kSkipped;
  if (t.IsPinned(position)) return kLocked;
  StoreRelaxed(t.digests + position, kReclaimed);
  return kUpdated;
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock) EraseKernel(const View t, const Write a) {
  const uint64_t i = ThreadIndex();
  if (i >= a.n) return;
  const bool asked = (a.size == nullptr || i < *a.size) && (a.accums == nullptr || a.accums[i]);
  const uint8_t done = asked ? EraseKey(t, a.keys[i]) : kSkipped;
  if (a.status != nullptr) a.status[i] = done;
}

// Changes the holders of the row of entry i of the call; true: it did.
__device__ __forceinline__ bool ChangeHolders(const View& t, const Write& call, uint64_t i) {
  uint32_t position = kNone;
  if (call.mode == WriteMode::kUnlockRows) {
    uint32_t bucket, slot;
    const uint64_t row = call.row_numbers[i];
    if (row < t.layout.capacity) {
      t.layout.Locate(row, &bucket, &slot);
      position = bucket * kBucketSlots + slot;
    }
  } else {
    const uint64_t key = call.keys[i];
    position = FindKey<false, true>(t, t.layout.PlaceOf(key), key).position;
  }
  if (position == kNone) return false;
  if (call.mode == WriteMode::kHold) {
    HoldRow(t, position);
    return true;
  }
  if (call.mode != WriteMode::kLock) return LetGoRow(t, position);
  if (atomicCAS(t.holders + position, 0, 1) != 0) return false;
  atomicOr(t.pinned + (position >> 5), 1u << (position & 31));
  return true;
}

// kLock ... kUnlockRows. founds[i]: this call changed the holders.
template <int kBlock>
__global__ void __launch_bounds__(kBlock) HoldersKernel(const View t, const Write call) {
  const uint64_t i = ThreadIndex();
  if (i >= call.n) return;
  const bool done = ChangeHolders(t, call, i);
  if (call.founds != nullptr) call.founds[i] = done;
}

}  // namespace device
}  // namespace hkv
