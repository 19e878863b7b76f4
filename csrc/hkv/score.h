// File: score.h
//
// The score rules of the evict strategies, for host and device (see EvictStrategy in types.h).
#pragma once

#include "csrc/hkv/layout.h"
#include "csrc/hkv/types.h"

namespace hkv {

constexpr uint64_t kMaxScore = UINT64_MAX;

ACCEL_HD uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a > kMaxScore - b ? kMaxScore : a + b;
}

ACCEL_HD constexpr bool NeedsClock(EvictStrategy strategy) {
  return strategy == EvictStrategy::kLru || strategy == EvictStrategy::kEpochLru;
}

ACCEL_HD constexpr bool AddsUp(EvictStrategy strategy) {
  return strategy == EvictStrategy::kLfu || strategy == EvictStrategy::kEpochLfu;
}

// The score of a new key. `given` is the caller's score, kMaxScore where the caller gave none.
ACCEL_HD uint64_t InsertScore(EvictStrategy strategy, uint64_t given, uint64_t now_ns,
                              uint64_t epoch) {
  constexpr uint64_t kLow = 0xffffffff;
  switch (strategy) {
    case EvictStrategy::kLru:
      return now_ns;
    case EvictStrategy::kEpochLru:
      return epoch << 32 | (now_ns >> 20 < kLow ? now_ns >> 20 : kLow);
    case EvictStrategy::kEpochLfu:
      return epoch << 32 | (given < kLow ? given : kLow);
    default:
      return given;
  }
}

// The score of a present key with score `old` after another write access.
ACCEL_HD uint64_t HitScore(EvictStrategy strategy, uint64_t old, uint64_t given, uint64_t now_ns,
                           uint64_t epoch) {
  constexpr uint64_t kLow = 0xffffffff;
  switch (strategy) {
    case EvictStrategy::kLfu:
      return SaturatingAdd(old, given);
    case EvictStrategy::kEpochLfu: {
      const uint64_t sum = SaturatingAdd(old & kLow, given);
      return epoch << 32 | (sum < kLow ? sum : kLow);
    }
    default:
      return InsertScore(strategy, given, now_ns, epoch);
  }
}

}  // namespace hkv
