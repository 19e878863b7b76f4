// File: score.h
//
// The score rules of the evict strategies and of the policies, for host and device (see types.h).
#pragma once

#include "csrc/hkv/calls.h"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/types.h"

namespace hkv {

constexpr uint64_t kMaxScore = UINT64_MAX;

ACCEL_HD uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a > kMaxScore - b ? kMaxScore : a + b;
}

// How a call makes scores, when all that has a say in it is considered.
enum class ScoreRule : int32_t { kClock, kAdd, kEpochClock, kEpochAdd, kGiven, kKept };

ACCEL_HD constexpr ScoreRule RuleOf(EvictStrategy strategy) {
  switch (strategy) {
    case EvictStrategy::kLru:
      return ScoreRule::kClock;
    case EvictStrategy::kLfu:
      return ScoreRule::kAdd;
    case EvictStrategy::kEpochLru:
      return ScoreRule::kEpochClock;
    case EvictStrategy::kEpochLfu:
      return ScoreRule::kEpochAdd;
    default:
      return ScoreRule::kGiven;
  }
}

constexpr ScoreRule RuleOf(EvictStrategy strategy, ScorePolicy policy) {
  switch (policy) {
    case ScorePolicy::kConstant:
      return ScoreRule::kKept;
    case ScorePolicy::kAssign:
      return ScoreRule::kGiven;
    case ScorePolicy::kAccumulate:
      return strategy == EvictStrategy::kEpochLfu ? ScoreRule::kEpochAdd : ScoreRule::kAdd;
    case ScorePolicy::kClock:
      return strategy == EvictStrategy::kEpochLru ? ScoreRule::kEpochClock : ScoreRule::kClock;
    default:
      return RuleOf(strategy);
  }
}

// The rule of a call on a table with that strategy and that default policy.
inline ScoreRule RuleOf(const Write& call, EvictStrategy strategy, ScorePolicy policy) {
  if (!call.touch_scores) return ScoreRule::kKept;
  if (call.verbatim) return ScoreRule::kGiven;
  return RuleOf(strategy, call.policy == ScorePolicy::kDefault ? policy : call.policy);
}

ACCEL_HD constexpr bool NeedsClock(ScoreRule rule) {
  return rule == ScoreRule::kClock || rule == ScoreRule::kEpochClock;
}

// Whether a call may make a score that is less than one that was made before.
ACCEL_HD constexpr bool MayLowerScores(ScoreRule rule, bool inserts) {
  return rule != ScoreRule::kClock && (inserts || rule != ScoreRule::kKept);
}

ACCEL_HD constexpr bool AddsUp(ScoreRule rule) {
  return rule == ScoreRule::kAdd || rule == ScoreRule::kEpochAdd;
}

// The score of a new key. `given` is the caller's score, kMaxScore where the caller gave none.
ACCEL_HD uint64_t InsertScore(ScoreRule rule, uint64_t given, uint64_t now_ns, uint64_t epoch) {
  constexpr uint64_t kLow = 0xffffffff;
  switch (rule) {
    case ScoreRule::kClock:
      return now_ns;
    case ScoreRule::kEpochClock:
      return epoch << 32 | (now_ns >> 20 < kLow ? now_ns >> 20 : kLow);
    case ScoreRule::kEpochAdd:
      return epoch << 32 | (given < kLow ? given : kLow);
    default:
      return given;
  }
}

// The score of a present key with score `old` after another write access.
ACCEL_HD uint64_t HitScore(ScoreRule rule, uint64_t old, uint64_t given, uint64_t now_ns,
                           uint64_t epoch) {
  constexpr uint64_t kLow = 0xffffffff;
  switch (rule) {
    case ScoreRule::kKept:
      return old;
    case ScoreRule::kAdd:
      return SaturatingAdd(old, given);
    case ScoreRule::kEpochAdd: {
      const uint64_t sum = SaturatingAdd(old & kLow, given);
      return epoch << 32 | (sum < kLow ? sum : kLow);
    }
    default:
      return InsertScore(rule, given, now_ns, epoch);
  }
}

// What the clock showed when it made a score, 0 where no clock did, or in an epoch before `*epoch`,
// which moves on to a later one.
inline uint64_t ClockOf(EvictStrategy strategy, uint64_t score, uint64_t* epoch) {
  switch (strategy) {
    case EvictStrategy::kLru:
      return score >> 63 == 0 ? score : 0;  // no clock shows 2^63: the caller's own score
    case EvictStrategy::kEpochLru:
    case EvictStrategy::kEpochLfu:
      if (score >> 32 < *epoch) return 0;
      *epoch = score >> 32;
      return strategy == EvictStrategy::kEpochLru ? ((score & 0xffffffff) + 1) << 20 : 0;
    default:
      return 0;
  }
}

}  // namespace hkv
