// File: lookup_kernel.cuh
//
// Read-only calls: find (values, pointers, missed keys) and contains; and the small calls that only
// need a key's position: erase, lock_keys, unlock_keys.
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

template <bool kValues>
__global__ void __launch_bounds__(kThreads, kLookupBlocks)
    LookupKernel(const View t, const LookupArgs a) {
  const uint64_t i = a.first + ThreadIndex();
  const bool active = i < a.n;
  const uint64_t key = active ? a.keys[i] : 0;
  __shared__ WarpScratch scratches[kThreads / 32];
  WarpScratch& scratch = scratches[threadIdx.x / 32];
  uint32_t position = kNone;
  if (active) position = FindKey<false, false>(t, t.layout.PlaceOf(key), key).position;
  __syncwarp();
  const bool found = position != kNone;
  char* row = found && (kValues || a.rows != nullptr) ? t.RowAt(position) : nullptr;
  if (active) {
    if (a.founds != nullptr) a.founds[i] = found;
    if (a.rows != nullptr) a.rows[i] = row;
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
    CopyRows<kLookupUnroll, true>(scratch, row, a.values + i * t.row_bytes, t.row_bytes,
                                  a.word_bytes);
  }
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    EraseKernel(const View t, uint64_t n, const uint64_t* keys, uint8_t* status) {
  const uint64_t i = ThreadIndex();
  if (i >= n) return;
  const uint32_t position = FindKey<false, true>(t, t.layout.PlaceOf(keys[i]), keys[i]).position;
  uint8_t done = kSkipped;
  if (position != kNone) {
    done = t.IsPinned(position) ? kLocked : kUpdated;
    if (done == kUpdated) StoreRelaxed(t.digests + position, kReclaimed);
  }
  if (status != nullptr) status[i] = done;
}

// Pins (or unpins) the rows of present keys. succeeded[i]: this call changed the state.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    LockKernel(const View t, uint64_t n, const uint64_t* keys, bool lock, bool* succeeded) {
  const uint64_t i = ThreadIndex();
  if (i >= n) return;
  const uint32_t position = FindKey<false, true>(t, t.layout.PlaceOf(keys[i]), keys[i]).position;
  bool done = false;
  if (position != kNone) {
    const uint32_t bit = 1u << (position & 31);
    uint32_t* word = t.pinned + (position >> 5);
    done = lock ? (atomicOr(word, bit) & bit) == 0 : (atomicAnd(word, ~bit) & bit) != 0;
  }
  if (succeeded != nullptr) succeeded[i] = done;
}

}  // namespace device
}  // namespace hkv
