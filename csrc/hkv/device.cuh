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

constexpr uint32_t kNone = 0xffffffff;  // no position
constexpr int kThreads = 128;           // per block, in every kernel; a warp works on 32 keys

// The insertions of equal keys exclude each other by a lock of their home bucket; several locks
// keep different keys apart.
constexpr uint32_t kLocksPerBucket = 4;

// A position is bucket * kBucketSlots + slot; it indexes the digests and the entries. Keys and
// scores stand in lines of 128 bytes, eight keys and their scores each: who has read a key has its
// score in the L2 cache, and device memory takes both back in one access.
constexpr uint32_t kLineKeys = 8;

struct View {
  Layout layout;
  uint8_t* digests = nullptr;   // (num_buckets, 128)
  uint64_t* entries = nullptr;  // (num_buckets, 16, 2, 8): 8 keys, 8 scores, ...
  uint32_t* locks = nullptr;    // (num_buckets, kLocksPerBucket): bit 0: held; + 2 per insertion
  uint32_t* busy = nullptr;     // (num_buckets, 4): one bit per slot, set while a row is in use
  uint32_t* pinned = nullptr;   // (num_buckets, 4): one bit per slot held by lock_keys, or null
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

// Sets bits and returns the word before; asks the L2 cache to keep it rather than what streams by.
__device__ __forceinline__ uint32_t OrInCache(uint32_t* p, uint32_t bits) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  uint32_t old;
  asm volatile("atom.relaxed.gpu.global.or.b32.L2::cache_hint %0, [%1], %2, %3;"
               : "=r"(old)
               : "l"(p), "r"(bits), "l"(policy)
               : "memory");
  return old;
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

__device__ __forceinline__ uint64_t ThreadIndex() {
  return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The counts of calls.h as atomics want them.
__device__ __forceinline__ unsigned long long* Counter(uint64_t* count) {
  return reinterpret_cast<unsigned long long*>(count);
}

}  // namespace device
}  // namespace hkv
