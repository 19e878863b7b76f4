// File: warp.cuh
//
// What the lanes of a warp, and the warps of a block, do together.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace accel {

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffff;  // all lanes of a warp

// The sum of `x` over this lane and those below it. Whole warps only.
template <class T>
__device__ __forceinline__ T WarpInclusiveSum(T x) {
  const int lane = threadIdx.x % kWarpSize;
  for (int d = 1; d < kWarpSize; d *= 2) {
    const T below = __shfl_up_sync(kFullMask, x, d);
    if (lane >= d) x += below;
  }
  return x;
}

// The sum of `x` over the threads of the block before this one. All threads of a block of whole
// warps; `warp_sums` is shared memory for one T a warp, free for other use after a barrier.
template <class T>
__device__ __forceinline__ T BlockExclusiveSum(T x, T* warp_sums) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const T sum = WarpInclusiveSum(x);
  if (lane == kWarpSize - 1) warp_sums[warp] = sum;
  __syncthreads();
  T before = sum - x;
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  return before;
}

// One slot of an output list for every thread with `wanted`; one atomic per warp. Whole warps only.
__device__ __forceinline__ uint64_t Append(unsigned long long* counter, bool wanted) {
  const unsigned lane = threadIdx.x % kWarpSize;
  const unsigned mask = __ballot_sync(kFullMask, wanted);
  unsigned long long base = 0;
  if (lane == 0 && mask != 0) base = atomicAdd(counter, __popc(mask));
  return __shfl_sync(kFullMask, base, 0) + __popc(mask & ((1u << lane) - 1));
}

}  // namespace accel
