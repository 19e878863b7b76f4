// File: bias.cuh
//
// How the kernels read rab. -inf hides a pair, as in other attentions; -inf itself would make
// SiLU(S) = -inf * 0 = NaN, so it is read as a number that nothing added to it changes, and whose
// SiLU and its derivative are 0.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "csrc/common/sm80_tile.cuh"

namespace accel::hstu {

// Two neighbouring values of rab. NaN stays NaN.
template <class Element>
__device__ __forceinline__ float2 UnpackBias(uint32_t two) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    constexpr uint32_t kLeast = 0xf14af14a;  // -1e30, twice
    asm("max.NaN.bf16x2 %0, %0, %1;\n" : "+r"(two) : "r"(kLeast));
    return Unpack<Element>(two);
  } else {
    const float2 v = Unpack<Element>(two);
    return {MaxOrNan(v.x, -1e30f), MaxOrNan(v.y, -1e30f)};
  }
}

}  // namespace accel::hstu
