// File: host_tables.h
//
// Small host tables and their calls, as the tests of C++ make them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "csrc/hkv/table.h"

namespace hkv_test {

using hkv::EvictStrategy;

inline std::unique_ptr<hkv::Table> Make(uint64_t capacity, EvictStrategy strategy,
                                        hkv::HashTableOptions options = {}, uint32_t dim = 1) {
  options.max_capacity = capacity;
  options.dim = dim;
  return hkv::CreateHostTable(options, hkv::KeyType::kUInt64, hkv::ValueType::kFloat32, strategy,
                              2);
}

inline std::vector<uint64_t> Sequence(uint64_t n, uint64_t first = 0) {
  std::vector<uint64_t> keys(n);
  for (uint64_t i = 0; i < n; ++i) keys[i] = first + i;
  return keys;
}

inline std::vector<uint64_t> Random(uint64_t n, uint64_t seed, uint64_t below) {
  std::mt19937_64 generator(seed);
  std::vector<uint64_t> numbers(n);
  for (uint64_t& x : numbers) x = generator() % below;
  return numbers;
}

// Scores as the strategy takes them.
inline const uint64_t* Given(EvictStrategy strategy, const std::vector<uint64_t>& scores) {
  return strategy == EvictStrategy::kLru ? nullptr : scores.data();
}

inline hkv::Write Writing(hkv::WriteMode mode, const std::vector<uint64_t>& keys) {
  hkv::Write call;
  call.name = "a test";
  call.mode = mode;
  call.n = keys.size();
  call.keys = keys.data();
  return call;
}

}  // namespace hkv_test
