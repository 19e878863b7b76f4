// File: engine_table.h
//
// Puts a typed GPU engine (hkv::HashTable or the upstream adapter) behind the virtual interface.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <string>
#include <type_traits>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/table.h"

namespace hkv {

template <class Engine>
class EngineTable final : public Table {
  using Key = typename Engine::key_type;
  using Value = typename Engine::value_type;

 public:
  explicit EngineTable(const HashTableOptions& options) : table_(options) {}

  void find(size_t n, const uint64_t* keys, void* values, bool* founds, uint64_t* scores,
            Stream stream) override {
    table_.find(n, K(keys), V(values), founds, scores, S(stream));
  }
  void find_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds, uint64_t* scores,
                     Stream stream) override {
    table_.find(n, K(keys), reinterpret_cast<Value**>(rows), founds, scores, S(stream));
  }
  void find_missed(size_t n, const uint64_t* keys, void* values, uint64_t* missed_keys,
                   int32_t* missed_indices, uint64_t* missed_size, uint64_t* scores,
                   Stream stream) override {
    table_.find(n, K(keys), V(values), K(missed_keys), missed_indices, missed_size, scores,
                S(stream));
  }
  void contains(size_t n, const uint64_t* keys, bool* founds, Stream stream) override {
    table_.contains(n, K(keys), founds, S(stream));
  }
  void find_and_update(size_t n, const uint64_t* keys, void* values, bool* founds,
                       const uint64_t* scores, uint8_t* status, Stream stream) override {
    table_.find_and_update(n, K(keys), V(values), founds, scores, S(stream), status);
  }
  void find_or_insert(size_t n, const uint64_t* keys, void* values, bool* founds,
                      const uint64_t* scores, uint8_t* status, Stream stream) override {
    table_.find_or_insert(n, K(keys), V(values), founds, scores, S(stream), status);
  }
  void find_or_insert_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                               const uint64_t* scores, bool lock, uint8_t* status,
                               Stream stream) override {
    table_.find_or_insert(n, K(keys), reinterpret_cast<Value**>(rows), founds, scores, S(stream),
                          lock, status);
  }
  void insert_or_assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        bool ignore_evict_strategy, uint8_t* status, Stream stream) override {
    table_.insert_or_assign(n, K(keys), V(values), scores, S(stream), ignore_evict_strategy,
                            status);
  }
  void insert_and_evict(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
                        uint64_t* evicted_keys, void* evicted_values, uint64_t* evicted_scores,
                        uint64_t* evicted_count, bool ignore_evict_strategy, uint8_t* status,
                        Stream stream) override {
    table_.insert_and_evict(n, K(keys), V(values), scores, K(evicted_keys), V(evicted_values),
                            evicted_scores, evicted_count, S(stream), ignore_evict_strategy,
                            status);
  }
  void accum_or_assign(size_t n, const uint64_t* keys, const void* values_or_deltas,
                       const bool* accums, const uint64_t* scores, uint8_t* status,
                       Stream stream) override {
    table_.accum_or_assign(n, K(keys), V(values_or_deltas), accums, scores, S(stream), status);
  }
  void assign(size_t n, const uint64_t* keys, const void* values, const uint64_t* scores,
              uint8_t* status, Stream stream) override {
    table_.assign(n, K(keys), V(values), scores, S(stream), status);
  }
  void assign_values(size_t n, const uint64_t* keys, const void* values, uint8_t* status,
                     Stream stream) override {
    table_.assign_values(n, K(keys), V(values), S(stream), status);
  }
  void assign_scores(size_t n, const uint64_t* keys, const uint64_t* scores, uint8_t* status,
                     Stream stream) override {
    table_.assign_scores(n, K(keys), scores, S(stream), status);
  }
  void erase(size_t n, const uint64_t* keys, uint8_t* status, Stream stream) override {
    table_.erase(n, K(keys), S(stream), status);
  }
  uint64_t erase_if(const Predicate& predicate, Stream stream) override {
    return table_.erase_if(predicate, S(stream));
  }
  void clear(Stream stream) override { table_.clear(S(stream)); }
  void lock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) override {
    table_.lock_keys(n, K(keys), succeeded, S(stream));
  }
  void unlock_keys(size_t n, const uint64_t* keys, bool* succeeded, Stream stream) override {
    table_.unlock_keys(n, K(keys), succeeded, S(stream));
  }
  void export_batch(size_t n, size_t offset, uint64_t* count, uint64_t* keys, void* values,
                    uint64_t* scores, Stream stream) override {
    table_.export_batch(n, offset, count, K(keys), V(values), scores, S(stream));
  }
  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       uint64_t* keys, void* values, uint64_t* scores, Stream stream) override {
    table_.export_batch_if(predicate, n, offset, count, K(keys), V(values), scores, S(stream));
  }
  uint64_t size(Stream stream) const override { return table_.size(S(stream)); }
  uint64_t size_if(const Predicate& predicate, Stream stream) const override {
    return table_.size_if(predicate, S(stream));
  }
  uint64_t capacity() const override { return table_.capacity(); }
  uint64_t max_capacity() const override { return table_.max_capacity(); }
  void reserve(uint64_t capacity, Stream stream) override { table_.reserve(capacity, S(stream)); }
  void set_global_epoch(uint64_t epoch) override { table_.set_global_epoch(epoch); }
  uint64_t save(const std::string& path, Stream stream) const override {
    return table_.save(path, S(stream));
  }
  uint64_t load(const std::string& path, Stream stream) override {
    return table_.load(path, S(stream));
  }
  void synchronize(Stream stream) const override {
    accel::DeviceGuard device(table_.device());
    accel::CheckCuda(cudaStreamSynchronize(S(stream)), "synchronize");
  }

  uint32_t dim() const override { return table_.dim(); }
  int32_t device() const override { return table_.device(); }
  KeyType key_type() const override {
    return std::is_same<Key, int64_t>::value ? KeyType::kInt64 : KeyType::kUInt64;
  }
  ValueType value_type() const override {
    return std::is_same<Value, float>::value    ? ValueType::kFloat32
           : std::is_same<Value, __half>::value ? ValueType::kFloat16
                                                : ValueType::kBFloat16;
  }
  EvictStrategy evict_strategy() const override { return Engine::evict_strategy; }
  const char* engine() const override { return Engine::kEngine; }

 private:
  static const Key* K(const uint64_t* keys) { return reinterpret_cast<const Key*>(keys); }
  static Key* K(uint64_t* keys) { return reinterpret_cast<Key*>(keys); }
  static const Value* V(const void* values) { return static_cast<const Value*>(values); }
  static Value* V(void* values) { return static_cast<Value*>(values); }
  static cudaStream_t S(Stream stream) { return static_cast<cudaStream_t>(stream); }

  Engine table_;
};

}  // namespace hkv
