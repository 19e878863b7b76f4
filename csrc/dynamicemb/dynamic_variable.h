// File: dynamic_variable.h
//
// A set of hash tables whose rows are the bytes of dynamicemb.h, as a handle: the tables of
// csrc/hkv with int64 keys and float words for values. One call serves the keys of all tables. This
// header and its source alone know the hash table.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "csrc/hkv/table.h"

namespace accel::dynamicemb {

// Strategies that a table of a set can have: lru, lfu, customized.
struct VariableOptions {
  hkv::HashTableOptions table;
  hkv::EvictStrategy strategy = hkv::EvictStrategy::kLru;
};

class DynamicVariable {
 public:
  // device: CUDA ordinal; -1: host memory, with so many threads.
  DynamicVariable(const std::vector<VariableOptions>& options, int device, int threads);

  // `offsets` (size() + 1) in the memory of the tables.
  hkv::Segments SegmentsOf(const int64_t* offsets) const {
    return {pointers_.size(), pointers_.data(), reinterpret_cast<const uint64_t*>(offsets)};
  }
  hkv::Table& At(int64_t table, const char* op) const;
  int64_t size() const { return static_cast<int64_t>(pointers_.size()); }
  int device() const { return device_; }
  uint64_t row_bytes() const { return row_bytes_; }  // of the widest table

 private:
  std::vector<std::unique_ptr<hkv::Table>> tables_;
  std::vector<hkv::Table*> pointers_;
  int device_;
  uint64_t row_bytes_ = 0;
};

// Handles are never given twice; an unknown one is an error.
int64_t Keep(std::shared_ptr<DynamicVariable> variable);
std::shared_ptr<DynamicVariable> Held(int64_t handle);
void Drop(int64_t handle);

}  // namespace accel::dynamicemb
