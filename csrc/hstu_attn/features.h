// File: features.h
//
// What this build serves. The switches and their constants (kWithRab ...) are generated from the
// list in instances.bzl.
#pragma once

#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/switches.h"

namespace accel::hstu {

inline bool InBuild(const MaskParams& m) {
  if (m.func != nullptr) return kWithArbitrary;
  const bool none = m.window_left < 0 && m.window_right < 0;
  const bool causal = m.window_left < 0 && m.window_right == 0;
  return (none || (causal ? kWithCausal : kWithLocal)) &&
         (kWithContext || m.num_contexts == nullptr) && (kWithTarget || m.num_targets == nullptr);
}

}  // namespace accel::hstu
