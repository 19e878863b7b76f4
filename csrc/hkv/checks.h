// File: checks.h
//
// Argument checks that both engines share. Every message names the call, the argument, its value
// and what is allowed.
#pragma once

#include <cstdint>
#include <string>

#include "csrc/common/errors.h"
#include "csrc/hkv/layout.h"
#include "csrc/hkv/types.h"

namespace hkv {

using accel::FailArgument;

// Arrays that a call with n > 0 keys cannot do without.
inline void CheckArray(const char* call, const char* name, size_t n, const void* array) {
  if (n > 0 && array == nullptr) {
    FailArgument(std::string(call) + ": " + name +
                 " is null; an array of n = " + std::to_string(n) + " entries is needed");
  }
}

inline void CheckScores(const char* call, EvictStrategy strategy, bool verbatim, size_t n,
                        const uint64_t* scores) {
  if (n == 0) return;
  const bool clock = strategy == EvictStrategy::kLru || strategy == EvictStrategy::kEpochLru;
  if (verbatim && scores == nullptr) {
    FailArgument(std::string(call) + ": scores is null; ignore_evict_strategy needs scores");
  }
  if (verbatim) return;
  if (clock && scores != nullptr) {
    FailArgument(std::string(call) + ": scores must be null with evict strategy " + Name(strategy) +
                 ", whose scores come from the clock");
  }
  if (strategy == EvictStrategy::kCustomized && scores == nullptr) {
    FailArgument(std::string(call) +
                 ": scores is null; evict strategy customized needs the caller's scores");
  }
}

inline HashTableOptions CheckedOptions(HashTableOptions options) {
  const auto number = [](uint64_t x) { return std::to_string(x); };
  if (options.max_capacity == 0 || options.max_capacity > kMaxCapacity) {
    FailArgument("max_capacity is " + number(options.max_capacity) + "; it must be 1 ... " +
                 number(kMaxCapacity) + " rows");
  }
  if (options.init_capacity == 0) options.init_capacity = options.max_capacity;
  if (options.init_capacity > options.max_capacity) {
    FailArgument("init_capacity is " + number(options.init_capacity) +
                 "; it must not exceed max_capacity, " + number(options.max_capacity));
  }
  constexpr uint32_t kMaxDim = 1 << 16;
  if (options.dim == 0 || options.dim > kMaxDim) {
    FailArgument("dim is " + number(options.dim) + "; it must be 1 ... " + number(kMaxDim));
  }
  if (!(options.max_load_factor > 0.0 && options.max_load_factor <= 1.0)) {
    FailArgument("max_load_factor is " + std::to_string(options.max_load_factor) +
                 "; it must be in (0, 1]");
  }
  return options;
}

inline void CheckRange(const char* call, size_t n, size_t offset, uint64_t capacity) {
  if (offset > capacity || n > capacity - offset) {
    FailArgument(std::string(call) + ": slots offset = " + std::to_string(offset) + " ... offset" +
                 " + n = " + std::to_string(offset + n) + " are not inside the capacity, " +
                 std::to_string(capacity));
  }
}

}  // namespace hkv
