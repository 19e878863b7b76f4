// File: backward_sum.cuh
//
// Adds up what the chunks of a backward left of dweight and dbias, always in one order.
#pragma once

#include <cstdint>

#include "csrc/causal_conv1d/conv.cuh"

namespace accel::conv1d {

template <class W, class A>
ACCEL_DEVICE void StoreSum(void* to, int64_t at, A sum) {
  W rounded;
  FromFloat(sum, &rounded);
  static_cast<W*>(to)[at] = rounded;
}

// A block adds up one tap of 32 channels, a group every eighth part.
template <class A>
ACCEL_DEVICE void BackwardSum(const SumArgs& a) {
  constexpr int kGroups = kSumThreads / kGroup;
  ACCEL_SHARED A added[kGroups][kGroup];
  const int tiles = CeilDiv(a.channels, kGroup);
  const int tap = static_cast<int>(BlockId() / tiles);  // width: that of the bias
  const int lane = Lane(), group = ThreadId() / kGroup;
  const int channel = static_cast<int>(BlockId() % tiles) * kGroup + lane;
  const int from = tap == a.width ? a.taps : a.taps - a.width + tap;
  const A* partial = static_cast<const A*>(a.partial);
  A sum = 0;
  if (channel < a.channels) {
#pragma unroll 8
    for (int part = group; part < a.parts; part += kGroups) {
      sum += partial[(static_cast<int64_t>(part) * (a.taps + 1) + from) * a.channels + channel];
    }
  }
  added[group][lane] = sum;
  Barrier();
  if (group != 0 || channel >= a.channels) return;
#pragma unroll
  for (int g = 1; g < kGroups; ++g) sum += added[g][lane];
  void* to = tap == a.width ? a.dbias : a.dweight;
  const int64_t at = tap == a.width ? channel : static_cast<int64_t>(channel) * a.width + tap;
  if constexpr (sizeof(A) == 8) return StoreSum<A>(to, at, sum);
  switch (a.type) {
    case Type::kFloat16:
      return StoreSum<Half>(to, at, sum);
    case Type::kBFloat16:
      return StoreSum<BFloat16>(to, at, sum);
    default:
      return StoreSum<float>(to, at, sum);
  }
}

}  // namespace accel::conv1d
