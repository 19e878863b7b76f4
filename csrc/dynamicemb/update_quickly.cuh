// File: update_quickly.cuh
//
// The update of a row (optimizer.cuh) by a warp, for the optimizers that most train with: a lane
// has one group of the row. Square roots and quotients are those of the hardware, within 2 units in
// the last place of the step.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/optimizer.cuh"

namespace accel::dynamicemb {

__device__ __forceinline__ float QuickRoot(float x) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// A row in shared memory. Each lane copies what it will read itself.
template <class Type, bool kAdam>
struct RowCopy {
  static constexpr int kGroupBytes = 4 * sizeof(typename Type::Stored);
  uint4 weights[kWarpSize], state[kAdam ? 2 : 1][kAdam ? kWarpSize : 1];
  uint32_t step[4];

  template <class Layout>
  __device__ __forceinline__ void Send(const Layout& info, const char* row) {
    const int lane = threadIdx.x % kWarpSize;
    if (lane * 4 < static_cast<int>(info.dim)) {
      __pipeline_memcpy_async(reinterpret_cast<char*>(weights) + lane * kGroupBytes,
                              row + lane * kGroupBytes, kGroupBytes);
      for (int k = 0; kAdam && k < 2; ++k) {
        const char* const from = row + info.state_offset + (k * info.state_len + lane * 4) * 4;
        __pipeline_memcpy_async(&state[k][lane], from, 16);
      }
    }
    if (kAdam && lane < 2) __pipeline_memcpy_async(step + lane, row + info.step_offset, 4);
  }
};

// grad: the four values of this lane's group. Whole warps only. Layout: RowInfo, or some of it.
template <class Type, bool kAdam, class Layout>
__device__ __forceinline__ void UpdateQuickly(const Numbers<float>& h, const RowUpdate<Type>& how,
                                              const Layout& info, const RowCopy<Type, kAdam>& from,
                                              char* row, const int64_t* key, const float* grad) {
  const int lane = threadIdx.x % kWarpSize;
  const bool mine = lane * 4 < static_cast<int>(info.dim);
  char* const state = row + info.state_offset;
  float w[4] = {}, s0[4] = {}, s1[4] = {};
  if (mine) {
    LoadRow(Type{}, from.weights, lane, w);
    if constexpr (kAdam) {
      LoadRow(Float{}, from.state[0], lane, s0);
      LoadRow(Float{}, from.state[1], lane, s1);
    }
  }
  float fix1 = 1, fix2 = 1;
  if (kAdam) {
    const uint32_t now = lane < 2 ? from.step[lane] + 1 : 1;
    const float log_beta = lane % 2 == 0 ? h.log_beta1 : h.log_beta2;
    const float fix = 1.0f / MinusExpm1(static_cast<float>(now) * log_beta);
    fix1 = __shfl_sync(kFullMask, fix, 0);
    fix2 = __shfl_sync(kFullMask, fix, 1);
    if (lane == 0) *reinterpret_cast<uint32_t*>(row + info.step_offset) = now;
  }
  const float l2 = how.decay == Decay::kL2 ? h.weight_decay : 0;
  const float keep = how.decay == Decay::kDecoupled ? h.lr * h.weight_decay : 0;
  float norm = 0;
  for (int j = 0; j < 4; ++j) {
    const float d = (mine ? grad[j] : 0) + l2 * w[j], off = keep * w[j];
    if (kAdam) {
      s0[j] = h.beta1 * s0[j] + (1 - h.beta1) * d;
      s1[j] = h.beta2 * s1[j] + (1 - h.beta2) * d * d;
      w[j] -= __fdividef(h.lr * (s0[j] * fix1), QuickRoot(s1[j] * fix2) + h.eps);
    } else {
      w[j] -= h.lr * d;
    }
    w[j] -= off;
    norm += w[j] * w[j];
  }
  if (h.max_norm > 0) {
    const float all = Sqrt(Team::Sum(norm));
    for (int j = 0; j < 4 && all > h.max_norm; ++j) w[j] *= h.max_norm / all;
  }
  if (!mine) return;
  how.Store(row, key, lane, w);
  if (kAdam) {
    StoreRow(Float{}, state, lane, s0);
    StoreRow(Float{}, state + info.state_len * 4, lane, s1);
  }
}

}  // namespace accel::dynamicemb
