// File: features.h
//
// What this build holds, as constants: the switches HSTU_DISABLE_* reach every translation unit as
// macros and are read here alone.
#pragma once

#include "csrc/hstu_attn/hstu.h"

namespace accel::hstu {

#ifdef HSTU_DISABLE_BACKWARD
constexpr bool kWithBackward = false;
#else
constexpr bool kWithBackward = true;
#endif

#ifdef HSTU_DISABLE_LOCAL
constexpr bool kWithLocal = false;
#else
constexpr bool kWithLocal = true;
#endif

#ifdef HSTU_DISABLE_CAUSAL
constexpr bool kWithCausal = false;
#else
constexpr bool kWithCausal = true;
#endif

#ifdef HSTU_DISABLE_CONTEXT
constexpr bool kWithContext = false;
#else
constexpr bool kWithContext = true;
#endif

#ifdef HSTU_DISABLE_TARGET
constexpr bool kWithTarget = false;
#else
constexpr bool kWithTarget = true;
#endif

#ifdef HSTU_DISABLE_ARBITRARY
constexpr bool kWithArbitrary = false;
#else
constexpr bool kWithArbitrary = true;
#endif

#ifdef HSTU_DISABLE_RAB
constexpr bool kWithRab = false;
#else
constexpr bool kWithRab = true;
#endif

#ifdef HSTU_DISABLE_DRAB
constexpr bool kWithDrab = false;
#else
constexpr bool kWithDrab = true;
#endif

#ifdef HSTU_DISABLE_BF16
constexpr bool kWithBf16 = false;
#else
constexpr bool kWithBf16 = true;
#endif

#ifdef HSTU_DISABLE_FP16
constexpr bool kWithFp16 = false;
#else
constexpr bool kWithFp16 = true;
#endif

#ifdef HSTU_DISABLE_HDIM32
constexpr bool kWithHeadDim32 = false;
#else
constexpr bool kWithHeadDim32 = true;
#endif

#ifdef HSTU_DISABLE_HDIM64
constexpr bool kWithHeadDim64 = false;
#else
constexpr bool kWithHeadDim64 = true;
#endif

#ifdef HSTU_DISABLE_HDIM128
constexpr bool kWithHeadDim128 = false;
#else
constexpr bool kWithHeadDim128 = true;
#endif

#ifdef HSTU_DISABLE_HDIM256
constexpr bool kWithHeadDim256 = false;
#else
constexpr bool kWithHeadDim256 = true;
#endif

#ifdef HSTU_DISABLE_86OR89
constexpr bool kWith86Or89 = false;
#else
constexpr bool kWith86Or89 = true;
#endif

#ifdef HSTU_DISABLE_DETERMINISTIC
constexpr bool kWithDeterministic = false;
#else
constexpr bool kWithDeterministic = true;
#endif

inline bool in_build(const MaskParams& m) {
  if (m.func != nullptr) return kWithArbitrary;
  const bool none = m.window_left < 0 && m.window_right < 0;
  const bool causal = m.window_left < 0 && m.window_right == 0;
  return (none || (causal ? kWithCausal : kWithLocal)) &&
         (kWithContext || m.num_contexts == nullptr) && (kWithTarget || m.num_targets == nullptr);
}

}  // namespace accel::hstu
