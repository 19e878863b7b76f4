// File: value_math.cuh
//
// Sums of values, for every type that a table's values may have. Integers wrap around.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace hkv {
namespace device {

// What values are summed in, before the sum is rounded to Value.
template <class Value>
using SumOf =
    std::conditional_t<std::is_same<Value, double>::value, double,
                       std::conditional_t<std::is_integral<Value>::value, uint32_t, float>>;

template <class Value>
__device__ __forceinline__ void AtomicAdd(Value* to, SumOf<Value> sum) {
  if constexpr (std::is_integral<Value>::value && sizeof(Value) == 4) {
    atomicAdd(reinterpret_cast<unsigned*>(to), sum);
  } else if constexpr (sizeof(Value) == 1) {
    const auto address = reinterpret_cast<uintptr_t>(to);
    auto* const word = reinterpret_cast<unsigned*>(address & ~uintptr_t{3});
    const unsigned shift = 8 * (address & 3);
    for (unsigned old = *word, now = ~old; now != old;) {
      now = old;
      const unsigned byte = ((now >> shift) + sum) & 0xff;
      old = atomicCAS(word, now, (now & ~(0xffu << shift)) | byte << shift);
    }
  } else {
    atomicAdd(to, static_cast<Value>(sum));
  }
}

}  // namespace device
}  // namespace hkv
