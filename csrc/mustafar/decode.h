// File: decode.h
//
// How a decode is laid out on a GPU, and its instances.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/common/portable.h"
#include "csrc/common/warp.cuh"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeThreads = kDecodeWarps * kWarpSize;
constexpr int kDecodeBlocks = 4;  // of a multiprocessor
constexpr int kMostSlots = 4;     // of a warp: WaitPending

// Shared memory for the keys or the values of a unit: items.cuh.
ACCEL_HD constexpr int ItemBytes(int head_dim, int kept) {
  return kept == head_dim ? kUnitTokens * 2 * head_dim : kUnitTokens * (head_dim / 8 + 2 * kept);
}

struct Ring {
  int slots, slot_bytes;
};

struct DecodePlan {
  Ring pages, window;
  int blocks;        // that share a multiprocessor
  int warp_bytes;    // shared memory of a warp
  float scale_log2;  // scores are powers of two
};

// Sums of a part of the tokens: `partial` (batch * q_heads, splits, D), `maxima` (.., splits).
template <class T, int D>
cudaError_t LaunchDecode(const DecodeParams& p, const DecodePlan& plan, float* partial,
                         float2* maxima, cudaStream_t stream);

}  // namespace accel::mustafar
