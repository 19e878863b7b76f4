// File: split.cuh
//
// How the parts of a block (split.h) meet: each leaves its fp32 sums, and the one that ends last
// adds up all of them, in order, so that the result is the same in every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/split.h"

namespace accel::hstu {

struct SplitSums {
  Split split;
  uint32_t* arrived = nullptr;  // (blocks): parts that have ended; zero at first
  float* sums = nullptr;        // (blocks, parts, a block's sums)
};

// Called by all kThreads of part `part` of block `block`; `arrived` is shared memory. The last one
// gets true, and in `o` the sum over all parts.
template <int kThreads, int kM, int kN>
__device__ __forceinline__ bool JoinParts(const SplitSums& s, int32_t block, int32_t part,
                                          int32_t parts, uint32_t* arrived, float (&o)[kM][kN][4]) {
  constexpr int kFragments = kM * kN;
  constexpr int64_t kPart = kFragments * kThreads;  // float4s
  float4* const all =
      reinterpret_cast<float4*>(s.sums) + block * s.split.most * kPart + ThreadInBlock();
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
    float(&x)[4] = o[i % kM][i / kM];
    __stcg(all + part * kPart + i * kThreads, make_float4(x[0], x[1], x[2], x[3]));
#pragma unroll
    for (int e = 0; e < 4; ++e) x[e] = 0.0f;
  }
  __threadfence();
  __syncthreads();  // all of this part is written
  if (ThreadInBlock() == 0) *arrived = atomicAdd(s.arrived + block, 1u);
  __syncthreads();
  if (*arrived + 1 < static_cast<uint32_t>(parts)) return false;
  __threadfence();
#pragma unroll 1
  for (int i = 0; i < parts; ++i) {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      const float4 x = __ldcg(all + i * kPart + f * kThreads);
      float(&sum)[4] = o[f % kM][f / kM];
      sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
    }
  }
  return true;
}

}  // namespace accel::hstu
