// File: upstream_adapter.cuh
//
// NVIDIA HierarchicalKV (nv::merlin::HashTable) with the interface of hkv::HashTable. What upstream
// does not have is refused by name: statuses, find_missed and find_and_update, locks by key,
// predicates other than a lowest score, files. Keys of one batch count as not unique.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <string>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/types.h"
#include "merlin_hashtable.cuh"

namespace hkv {

template <class Key, class Score>
struct ScoreAtLeast {
  __forceinline__ __device__ bool operator()(const Key&, const Score& score, const Key&,
                                             const Score& threshold) {
    return score >= threshold;
  }
};

template <class Key, class Value, EvictStrategy kStrategy>
class UpstreamTable {
  using Upstream = nv::merlin::HashTable<Key, Value, uint64_t, static_cast<int>(kStrategy)>;

 public:
  using key_type = Key;
  using value_type = Value;
  static constexpr EvictStrategy evict_strategy = kStrategy;
  static constexpr const char* kEngine = "upstream";

  explicit UpstreamTable(const HashTableOptions& options) : options_(CheckedOptions(options)) {
    if (options_.device_id < 0)
      accel::CheckCuda(cudaGetDevice(&options_.device_id), "cudaGetDevice");
    accel::DeviceGuard device(options_.device_id);
    nv::merlin::HashTableOptions upstream;
    upstream.init_capacity = options_.init_capacity;
    upstream.max_capacity = options_.max_capacity;
    const uint64_t all = options_.max_capacity * options_.dim * sizeof(Value);
    upstream.max_hbm_for_vectors = std::min(options_.max_hbm_for_vectors, all);
    upstream.dim = options_.dim;
    upstream.max_load_factor = static_cast<float>(options_.max_load_factor);
    upstream.device_id = options_.device_id;
    upstream.api_lock = options_.api_lock;
    table_.init(upstream);
  }

  void find(size_t n, const Key* keys, Value* values, bool* founds, uint64_t* scores,
            cudaStream_t stream) const {
    table_.find(n, keys, values, founds, scores, stream);
  }
  void find(size_t n, const Key* keys, Value** rows, bool* founds, uint64_t* scores,
            cudaStream_t stream) const {
    table_.find(n, keys, rows, founds, scores, stream);
  }
  void find(size_t, const Key*, Value*, Key*, int*, uint64_t*, uint64_t*, cudaStream_t) const {
    Lacks("find_missed");
  }
  void contains(size_t n, const Key* keys, bool* founds, cudaStream_t stream) const {
    table_.contains(n, keys, founds, stream);
  }
  void find_and_update(size_t, const Key*, Value*, bool*, const uint64_t*, cudaStream_t, uint8_t*) {
    Lacks("find_and_update");
  }
  void find_or_insert(size_t n, const Key* keys, Value* values, bool* founds,
                      const uint64_t* scores, cudaStream_t stream, uint8_t* status) {
    Check("find_or_insert", n, scores, false, status);
    if (founds != nullptr) table_.contains(n, keys, founds, stream);
    table_.find_or_insert(n, keys, values, const_cast<uint64_t*>(scores), stream, false);
  }
  void find_or_insert(size_t n, const Key* keys, Value** rows, bool* founds, const uint64_t* scores,
                      cudaStream_t stream, bool lock, uint8_t* status) {
    Check("find_or_insert_pointers", n, scores, false, status);
    if (lock) Lacks("find_or_insert_pointers with lock");
    table_.find_or_insert(n, keys, rows, founds, const_cast<uint64_t*>(scores), stream, false);
  }
  void insert_or_assign(size_t n, const Key* keys, const Value* values, const uint64_t* scores,
                        cudaStream_t stream, bool ignore_evict_strategy, uint8_t* status) {
    Check("insert_or_assign", n, scores, ignore_evict_strategy, status);
    table_.insert_or_assign(n, keys, values, scores, stream, false, ignore_evict_strategy);
  }
  void insert_and_evict(size_t n, const Key* keys, const Value* values, const uint64_t* scores,
                        Key* evicted_keys, Value* evicted_values, uint64_t* evicted_scores,
                        uint64_t* evicted_count, cudaStream_t stream, bool ignore_evict_strategy,
                        uint8_t* status) {
    Check("insert_and_evict", n, scores, ignore_evict_strategy, status);
    accel::CheckCuda(cudaMemsetAsync(evicted_count, 0, 8, stream), "insert_and_evict");
    table_.insert_and_evict(n, keys, values, scores, evicted_keys, evicted_values, evicted_scores,
                            evicted_count, stream, false, ignore_evict_strategy);
  }
  void accum_or_assign(size_t n, const Key* keys, const Value* values_or_deltas, const bool* accums,
                       const uint64_t* scores, cudaStream_t stream, uint8_t* status) {
    Check("accum_or_assign", n, scores, false, status);
    table_.accum_or_assign(n, keys, values_or_deltas, accums, scores, stream);
  }
  void assign(size_t n, const Key* keys, const Value* values, const uint64_t* scores,
              cudaStream_t stream, uint8_t* status) {
    Check("assign", n, scores, false, status);
    table_.assign(n, keys, values, scores, stream, false);
  }
  void assign_values(size_t n, const Key* keys, const Value* values, cudaStream_t stream,
                     uint8_t* status) {
    if (status != nullptr) Lacks("a status of assign_values");
    table_.assign_values(n, keys, values, stream, false);
  }
  void assign_scores(size_t n, const Key* keys, const uint64_t* scores, cudaStream_t stream,
                     uint8_t* status) {
    Check("assign_scores", n, scores, false, status);
    table_.assign_scores(n, keys, scores, stream, false);
  }
  void erase(size_t n, const Key* keys, cudaStream_t stream, uint8_t* status) {
    if (status != nullptr) Lacks("a status of erase");
    table_.erase(n, keys, stream);
  }
  uint64_t erase_if(const Predicate& predicate, cudaStream_t stream) {
    CheckPredicate(predicate);
    return table_.template erase_if<ScoreAtLeast>(Key{}, predicate.score_min, stream);
  }
  void clear(cudaStream_t stream) { table_.clear(stream); }
  void lock_keys(size_t, const Key*, bool*, cudaStream_t) { Lacks("lock_keys"); }
  void unlock_keys(size_t, const Key*, bool*, cudaStream_t) { Lacks("unlock_keys"); }

  void export_batch(size_t n, size_t offset, uint64_t* count, Key* keys, Value* values,
                    uint64_t* scores, cudaStream_t stream) const {
    accel::CheckCuda(cudaMemsetAsync(count, 0, 8, stream), "export_batch");
    table_.export_batch(n, offset, count, keys, values, scores, stream);
  }
  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       Key* keys, Value* values, uint64_t* scores, cudaStream_t stream) const {
    if (predicate.score_min == 0 && predicate.score_max == UINT64_MAX && predicate.key_mask == 0 &&
        predicate.key_pattern == 0) {
      export_batch(n, offset, count, keys, values, scores, stream);
      return;
    }
    CheckPredicate(predicate);
    accel::CheckCuda(cudaMemsetAsync(count, 0, 8, stream), "export_batch_if");
    table_.template export_batch_if<ScoreAtLeast>(Key{}, predicate.score_min, n, offset, count,
                                                  keys, values, scores, stream);
  }
  uint64_t size(cudaStream_t stream) const { return table_.size(stream); }
  uint64_t size_if(const Predicate& predicate, cudaStream_t stream) const {
    CheckPredicate(predicate);
    accel::DeviceGuard device(options_.device_id);
    accel::Buffer counter(accel::MemoryKind::kDevice, 8, "a counter");
    accel::CheckCuda(cudaMemsetAsync(counter.As<char>(), 0, 8, stream), "size_if");
    table_.template size_if<ScoreAtLeast>(Key{}, predicate.score_min, counter.As<size_t>(), stream);
    uint64_t count = 0;
    accel::CheckCuda(cudaMemcpyAsync(&count, counter.As<char>(), 8, cudaMemcpyDeviceToHost, stream),
                     "size_if");
    accel::CheckCuda(cudaStreamSynchronize(stream), "size_if");
    return count;
  }
  uint64_t capacity() const { return table_.capacity(); }
  uint64_t max_capacity() const { return options_.max_capacity; }
  uint32_t dim() const { return options_.dim; }
  int32_t device() const { return options_.device_id; }
  void reserve(uint64_t capacity, cudaStream_t stream) { table_.reserve(capacity, stream); }
  void set_global_epoch(uint64_t epoch) { table_.set_global_epoch(epoch); }
  uint64_t save(const std::string&, cudaStream_t) const { Lacks("save"); }
  uint64_t load(const std::string&, cudaStream_t) { Lacks("load"); }

 private:
  [[noreturn]] static void Lacks(const char* what) {
    FailArgument(std::string("the upstream engine has no ") + what +
                 "; the native engine has (--//third_party/hierarchical_kv:engine=native)");
  }
  static void Check(const char* call, size_t n, const uint64_t* scores, bool verbatim,
                    const uint8_t* status) {
    if (status != nullptr) Lacks("statuses");
    CheckScores(call, kStrategy, verbatim, n, scores);
  }
  static void CheckPredicate(const Predicate& p) {
    if (p.key_mask != 0 || p.key_pattern != 0 || p.score_max != UINT64_MAX) {
      Lacks("predicates but for score_min");
    }
  }

  HashTableOptions options_;
  Upstream table_;
};

}  // namespace hkv
