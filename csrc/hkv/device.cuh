// File: device.cuh
//
// What every kernel of the table shares: the device view of a table and the few memory operations
// whose ordering matters. Loads of shared state bypass L1 (relaxed at device scope).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/warp.cuh"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/types.h"

namespace hkv {
namespace device {

using accel::Append;
using accel::kFullMask;

constexpr uint32_t kNone = 0xffffffff;       // no position
constexpr uint64_t kNoSlots = ~uint64_t{0};  // of BucketState::lowest
constexpr int kThreads = 128;                // per block, in every kernel; a warp works on 32 keys

// The insertions of equal keys exclude each other by a lock of their home bucket; several locks
// keep different keys apart.
constexpr uint32_t kLocksPerBucket = 4;

// A position is bucket * kBucketSlots + slot; it indexes the digests and the entries. Keys and
// scores stand in lines of 128 bytes, eight keys and their scores each: who has read a key has its
// score in the L2 cache, and device memory takes both back in one access.
constexpr uint32_t kLineKeys = 8;

// The calls that hand out rows have numbers, counted on the device so that a replayed graph counts
// on: the next one's is calls + 1.
struct CallState {
  uint32_t calls;
  uint32_t blocks_done;  // of the kernel that ends the call
  uint32_t lowered;      // how many kernels may have made scores that are less than older ones
};

// What evictions remember of a bucket. All of it should stay in the L2 cache.
struct alignas(32) BucketState {
  uint64_t level;    // about the smallest score, when it was last looked for; 0: it was not
  uint64_t lowest;   // slots that leave next (lowest.cuh), a byte each, in order; 0xff: none
  uint64_t below;    // the smallest score of all other slots, when they were read
  uint32_t lowered;  // CallState's then: if it has changed, lowest says nothing
  uint32_t waiting;  // the first of the keys that evict here (evict.cuh), kNone between calls
};

struct View {
  Layout layout;
  uint8_t* digests = nullptr;   // (num_buckets, 128)
  uint64_t* entries = nullptr;  // (num_buckets, 16, 2, 8): 8 keys, 8 scores, ...
  uint32_t* locks = nullptr;    // (num_buckets, kLocksPerBucket): bit 0: held; + 2 per insertion
  uint32_t* busy = nullptr;     // (num_buckets, 4): one bit per slot, set while a row is in use
  uint32_t* pinned = nullptr;   // (num_buckets, 4): one bit per slot that has holders, or null
  uint32_t* holders = nullptr;  // (num_buckets, 128): how many, or null
  uint64_t* given = nullptr;  // (num_buckets, 4): number of a call << 32 | one bit per slot that it
                              // handed out
  CallState* state = nullptr;      // (1)
  BucketState* buckets = nullptr;  // (num_buckets)
  char* hbm_rows = nullptr;
  char* host_rows = nullptr;  // pinned and mapped; rows num_hbm_rows ... capacity - 1
  uint64_t num_hbm_rows = 0;
  uint32_t row_bytes = 0;

  __device__ __forceinline__ uint64_t* KeyAt(uint32_t position) const {
    return entries + uint64_t{position / kLineKeys} * (2 * kLineKeys) + position % kLineKeys;
  }

  __device__ __forceinline__ uint64_t* ScoreAt(uint32_t position) const {
    return KeyAt(position) + kLineKeys;
  }

  __device__ __forceinline__ uint64_t RowOf(uint32_t position) const {
    return layout.Row(position / kBucketSlots, position % kBucketSlots);
  }

  __device__ __forceinline__ char* RowAt(uint32_t position) const {
    const uint64_t row = RowOf(position);
    return row < num_hbm_rows ? hbm_rows + row * row_bytes
                              : host_rows + (row - num_hbm_rows) * row_bytes;
  }

  __device__ __forceinline__ bool IsPinned(uint32_t position) const {
    return pinned != nullptr && (pinned[position >> 5] >> (position & 31) & 1) != 0;
  }
};

__device__ __forceinline__ uint32_t LoadRelaxed(const uint32_t* p) {
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}

__device__ __forceinline__ uint64_t LoadRelaxed(const uint64_t* p) {
  uint64_t x;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
  return x;
}

__device__ __forceinline__ uint32_t LoadRelaxed(const uint8_t* p) {
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u8 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}

__device__ __forceinline__ uint4 LoadRelaxed(const uint4* p) {
  uint4 x;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p)
               : "memory");
  return x;
}

__device__ __forceinline__ uint64_t Load(const unsigned long long* counter) {
  return LoadRelaxed(reinterpret_cast<const uint64_t*>(counter));
}

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* p) {
  uint32_t x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}

__device__ __forceinline__ void StoreRelaxed(uint64_t* p, uint64_t x) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(x) : "memory");
}

__device__ __forceinline__ void StoreRelaxed(uint8_t* p, uint32_t x) {
  asm volatile("st.relaxed.gpu.global.u8 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}

__device__ __forceinline__ void StoreRelaxed(uint32_t* p, uint32_t x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}

__device__ __forceinline__ void Fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Accesses that ask the L2 cache to keep what they touch rather than what streams by.
__device__ __forceinline__ uint64_t KeepPolicy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Sets bits and returns the word before.
__device__ __forceinline__ uint32_t OrInCache(uint32_t* p, uint32_t bits) {
  uint32_t old;
  asm volatile("atom.relaxed.gpu.global.or.b32.L2::cache_hint %0, [%1], %2, %3;"
               : "=r"(old)
               : "l"(p), "r"(bits), "l"(KeepPolicy())
               : "memory");
  return old;
}

__device__ __forceinline__ uint32_t ExchangeInCache(uint32_t* p, uint32_t x) {
  uint32_t old;
  asm volatile("atom.relaxed.gpu.global.exch.b32.L2::cache_hint %0, [%1], %2, %3;"
               : "=r"(old)
               : "l"(p), "r"(x), "l"(KeepPolicy())
               : "memory");
  return old;
}

__device__ __forceinline__ uint64_t LoadInCache(const uint64_t* p) {
  uint64_t x;
  asm volatile("ld.relaxed.gpu.global.L2::cache_hint.u64 %0, [%1], %2;"
               : "=l"(x)
               : "l"(p), "l"(KeepPolicy())
               : "memory");
  return x;
}

__device__ __forceinline__ void PrefetchToCache(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

__device__ __forceinline__ uint64_t GlobalTimer() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

// Takes the row of `position` for this thread. Nobody waits while holding a row. Its last holder's
// work is seen; the new holder's work is made visible by a Fence() before UnlockRow().
__device__ __forceinline__ bool TryLockRow(const View& t, uint32_t position) {
  const uint32_t bit = 1u << (position & 31);
  uint32_t old;
  asm volatile("atom.acquire.gpu.global.or.b32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(t.busy + (position >> 5)), "r"(bit)
               : "memory");
  return (old & bit) == 0;
}

__device__ __forceinline__ void UnlockRow(const View& t, uint32_t position) {
  atomicAnd(t.busy + (position >> 5), ~(1u << (position & 31)));
}

// One holder more for a row.
__device__ __forceinline__ void HoldRow(const View& t, uint32_t position, uint32_t count = 1) {
  if (atomicAdd(t.holders + position, count) == 0) {
    atomicOr(t.pinned + (position >> 5), 1u << (position & 31));
  }
}

// One holder less; false: there was none. Kernels that add holders do not run beside this.
__device__ __forceinline__ bool LetGoRow(const View& t, uint32_t position) {
  uint32_t* const holders = t.holders + position;
  uint32_t count = LoadRelaxed(holders);
  while (count != 0) {
    const uint32_t old = atomicCAS(holders, count, count - 1);
    if (old == count) break;
    count = old;
  }
  if (count == 1) atomicAnd(t.pinned + (position >> 5), ~(1u << (position & 31)));
  return count != 0;
}

// Says that call `number` handed the row out.
__device__ __forceinline__ void GiveRow(const View& t, uint32_t position, uint32_t number) {
  auto* const word = reinterpret_cast<unsigned long long*>(t.given + (position >> 5));
  atomicMax(word, static_cast<unsigned long long>(number) << 32);  // an older call's bits go
  atomicOr(word, 1ull << (position & 31));
}

// The slots of a word of 32 that call `number` handed out.
__device__ __forceinline__ uint32_t GivenBy(const View& t, uint32_t word, uint32_t number) {
  const uint64_t given = LoadRelaxed(t.given + word);
  return given >> 32 == number ? static_cast<uint32_t>(given) : 0;
}

__device__ __forceinline__ uint64_t ThreadIndex() {
  return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The counts of calls.h as atomics want them.
__device__ __forceinline__ unsigned long long* Counter(uint64_t* count) {
  return reinterpret_cast<unsigned long long*>(count);
}

}  // namespace device
}  // namespace hkv
