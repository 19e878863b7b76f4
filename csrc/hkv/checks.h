// File: checks.h
//
// Argument checks that all engines share. Every message names the call, the argument, its value and
// what is allowed.
#pragma once

#include <cstdint>

#include "csrc/common/errors.h"
#include "csrc/hkv/calls.h"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/score.h"
#include "csrc/hkv/types.h"

namespace hkv {

using accel::FailArgument;

// An array that a call with n > 0 keys cannot do without.
inline void CheckArray(const char* call, const char* name, uint64_t n, const void* array) {
  if (n > 0 && array == nullptr) {
    FailArgument(call, ": ", name, " is null; an array of n = ", n, " entries is needed");
  }
}

// How a table makes scores where a call says nothing.
struct Scoring {
  EvictStrategy strategy = EvictStrategy::kLru;
  ScorePolicy policy = ScorePolicy::kDefault;
};

inline void CheckScores(const Write& call, const Scoring& scoring, bool of_segments) {
  if (call.n == 0 || !call.touch_scores || call.mode >= WriteMode::kErase) return;
  const ScoreRule rule = RuleOf(call, scoring.strategy, scoring.policy);
  const ScorePolicy policy = call.policy == ScorePolicy::kDefault ? scoring.policy : call.policy;
  const bool by_policy = policy != ScorePolicy::kDefault;
  const char* const kind = by_policy ? "score policy " : "evict strategy ";
  const char* const name = by_policy ? Name(policy) : Name(scoring.strategy);
  if (call.verbatim) {
    if (call.scores != nullptr) return;
    FailArgument(call.name, ": scores is null; ignore_evict_strategy needs scores");
  }
  if (NeedsClock(rule) && call.scores != nullptr && !of_segments) {
    FailArgument(call.name, ": scores must be null with ", kind, name,
                 ", whose scores come from the clock");
  }
  const bool needs = rule == ScoreRule::kGiven || (rule == ScoreRule::kKept && Inserts(call.mode));
  if (needs && call.scores == nullptr) {
    FailArgument(call.name, ": scores is null; ", kind, name, " needs the caller's scores");
  }
}

// pitch: of rows of `row_bytes`.
inline void CheckPitch(const char* call, uint64_t pitch, uint64_t row_bytes,
                       uint64_t element_bytes) {
  if (pitch == 0 || (pitch >= row_bytes && pitch % element_bytes == 0)) return;
  FailArgument(call, ": pitch is ", pitch, " bytes; it must be 0 or a multiple of ", element_bytes,
               " that holds a row, ", row_bytes, " bytes");
}

inline void Check(const Read& call) {
  const auto needs = [&](const char* name, uint64_t n, const void* array) {
    CheckArray(call.name, name, n, array);
  };
  needs("keys", call.n, call.keys);
  if (call.missed_keys == nullptr && call.missed_indices == nullptr &&
      call.missed_size == nullptr) {
    return;
  }
  needs("missed_keys", call.n, call.missed_keys);
  needs("missed_indices", call.n, call.missed_indices);
  needs("missed_size", 1, call.missed_size);
}

// of_segments: scores are for those of several tables that take them.
inline void Check(const Write& call, const Scoring& scoring, bool of_segments = false) {
  const auto needs = [&](const char* name, uint64_t n, const void* array) {
    CheckArray(call.name, name, n, array);
  };
  if (call.mode == WriteMode::kUnlockRows) return needs("rows", call.n, call.row_numbers);
  needs("keys", call.n, call.keys);
  if (Inserts(call.mode) && !HandsOutRows(call)) needs("values", call.n, call.values);
  if (call.mode == WriteMode::kAccumOrAssign) needs("accums", call.n, call.accums);
  if (call.mode == WriteMode::kInsertAndEvict) {
    needs("evicted_keys", call.n, call.evicted_keys);
    needs("evicted_values", call.n, call.evicted_values);
    needs("evicted_count", 1, call.evicted_count);
  }
  if (call.mode == WriteMode::kFindOrInsert && call.evicted_keys != nullptr) {
    needs("evicted_count", 1, call.evicted_count);
  }
  CheckScores(call, scoring, of_segments);
}

inline void CheckSlots(const char* call, uint64_t begin, uint64_t end, uint64_t capacity) {
  if (begin > end || end > capacity) {
    FailArgument(call, ": slots offset = ", begin, " ... offset + n = ", end,
                 " are not inside the capacity, ", capacity);
  }
}

inline void CheckRange(const Export& call, uint64_t capacity) {
  CheckArray("export_batch", "count", 1, call.count);
  CheckSlots("export_batch", call.begin, call.end, capacity);
}

inline void CheckReserve(uint64_t capacity, uint64_t max_capacity) {
  if (capacity > max_capacity) {
    FailArgument("reserve: capacity is ", capacity, "; it must not exceed max_capacity, ",
                 max_capacity);
  }
}

// The least capacity that holds so many rows without being fuller than `max_load_factor`.
inline uint64_t NeededCapacity(uint64_t rows, double max_load_factor) {
  return static_cast<uint64_t>(static_cast<double>(rows) / max_load_factor) + 1;
}

inline void CheckMaxCapacity(uint64_t rows, uint64_t capacity) {
  if (rows < capacity || rows > kMaxCapacity) {
    FailArgument("set_max_capacity: capacity is ", rows, "; it must be ", capacity,
                 " (the capacity now) ... ", kMaxCapacity);
  }
}

// The library's tables; the header has further types of values.
inline void CheckOfLibrary(ValueType value) {
  if (static_cast<int>(value) < kValueTypesOfLibrary) return;
  FailArgument("value type ", Name(value),
               " is not among the compiled tables (float32, float16, bfloat16); "
               "csrc/hkv/hash_table.cuh has it");
}

inline HashTableOptions CheckedOptions(HashTableOptions options) {
  if (options.max_capacity == 0 || options.max_capacity > kMaxCapacity) {
    FailArgument("max_capacity is ", options.max_capacity, "; it must be 1 ... ", kMaxCapacity,
                 " rows");
  }
  if (options.init_capacity == 0) options.init_capacity = options.max_capacity;
  if (options.init_capacity > options.max_capacity) {
    FailArgument("init_capacity is ", options.init_capacity, "; it must not exceed max_capacity, ",
                 options.max_capacity);
  }
  constexpr uint32_t kMaxDim = 1 << 16;
  if (options.dim == 0 || options.dim > kMaxDim) {
    FailArgument("dim is ", options.dim, "; it must be 1 ... ", kMaxDim);
  }
  if (!(options.max_load_factor > 0.0 && options.max_load_factor <= 1.0)) {
    FailArgument("max_load_factor is ", options.max_load_factor, "; it must be in (0, 1]");
  }
  if ((options.allocator.allocate == nullptr) != (options.allocator.free == nullptr)) {
    FailArgument("allocator has only one of allocate and free; it must have both or none");
  }
  return options;
}

}  // namespace hkv
