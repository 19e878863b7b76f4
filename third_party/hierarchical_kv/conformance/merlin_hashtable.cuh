// File: merlin_hashtable.cuh
//
// The part of nv::merlin::HashTable's interface that csrc/hkv/upstream_adapter.cuh uses: classes
// and signatures, no bodies. It stands in for NVIDIA HierarchicalKV's header of the same name where
// that cannot be fetched; objects built on it compile but do not link.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace nv {
namespace merlin {

struct EvictStrategy {
  enum EvictStrategyEnum {
    kLru = 0,
    kLfu = 1,
    kEpochLru = 2,
    kEpochLfu = 3,
    kCustomized = 4,
  };
};

struct HashTableOptions {
  size_t init_capacity = 0;
  size_t max_capacity = 0;
  size_t max_hbm_for_vectors = 0;
  size_t max_bucket_size = 128;
  size_t dim = 64;
  float max_load_factor = 0.5f;
  int block_size = 128;
  int io_block_size = 1024;
  int device_id = -1;
  bool io_by_cpu = false;
  bool use_constant_memory = false;
  int reserved_key_start_bit = 0;
  size_t num_of_buckets_per_alloc = 1;
  bool api_lock = true;
};

class BaseAllocator;

template <typename K, typename V, typename S = uint64_t, int Strategy = EvictStrategy::kLru>
class HashTable {
 public:
  using size_type = size_t;
  using key_type = K;
  using value_type = V;
  using score_type = S;

  HashTable();
  ~HashTable();

  void init(const HashTableOptions& options, BaseAllocator* allocator = nullptr);

  void insert_or_assign(size_type n, const key_type* keys, const value_type* values,
                        const score_type* scores = nullptr, cudaStream_t stream = 0,
                        bool unique_key = true, bool ignore_evict_strategy = false);
  void insert_and_evict(size_type n, const key_type* keys, const value_type* values,
                        const score_type* scores, key_type* evicted_keys,
                        value_type* evicted_values, score_type* evicted_scores,
                        size_type* d_evicted_counter, cudaStream_t stream = 0,
                        bool unique_key = true, bool ignore_evict_strategy = false);
  void accum_or_assign(size_type n, const key_type* keys, const value_type* value_or_deltas,
                       const bool* accum_or_assigns, const score_type* scores = nullptr,
                       cudaStream_t stream = 0, bool ignore_evict_strategy = false);
  void find_or_insert(size_type n, const key_type* keys, value_type* values,
                      score_type* scores = nullptr, cudaStream_t stream = 0, bool unique_key = true,
                      bool ignore_evict_strategy = false);
  void find_or_insert(size_type n, const key_type* keys, value_type** values, bool* founds,
                      score_type* scores = nullptr, cudaStream_t stream = 0, bool unique_key = true,
                      bool ignore_evict_strategy = false);
  void assign(size_type n, const key_type* keys, const value_type* values,
              const score_type* scores = nullptr, cudaStream_t stream = 0, bool unique_key = true);
  void assign_scores(size_type n, const key_type* keys, const score_type* scores = nullptr,
                     cudaStream_t stream = 0, bool unique_key = true);
  void assign_values(size_type n, const key_type* keys, const value_type* values,
                     cudaStream_t stream = 0, bool unique_key = true);

  void find(size_type n, const key_type* keys, value_type* values, bool* founds,
            score_type* scores = nullptr, cudaStream_t stream = 0) const;
  void find(size_type n, const key_type* keys, value_type** values, bool* founds,
            score_type* scores = nullptr, cudaStream_t stream = 0, bool unique_key = true) const;
  void contains(size_type n, const key_type* keys, bool* founds, cudaStream_t stream = 0) const;

  void erase(size_type n, const key_type* keys, cudaStream_t stream = 0);
  template <template <typename, typename> class PredFunctor>
  size_type erase_if(const key_type& pattern, const score_type& threshold, cudaStream_t stream = 0);
  void clear(cudaStream_t stream = 0);

  void export_batch(size_type n, const size_type offset, size_type* d_counter, key_type* keys,
                    value_type* values, score_type* scores = nullptr,
                    cudaStream_t stream = 0) const;
  template <template <typename, typename> class PredFunctor>
  void export_batch_if(const key_type& pattern, const score_type& threshold, size_type n,
                       const size_type offset, size_type* d_counter, key_type* keys,
                       value_type* values, score_type* scores = nullptr,
                       cudaStream_t stream = 0) const;

  size_type size(cudaStream_t stream = 0) const;
  template <template <typename, typename> class PredFunctor>
  void size_if(const key_type& pattern, const score_type& threshold, size_type* d_counter,
               cudaStream_t stream = 0) const;
  size_type capacity() const;
  void reserve(const size_type new_capacity, cudaStream_t stream = 0);
  void set_global_epoch(const uint64_t epoch);
};

}  // namespace merlin
}  // namespace nv
