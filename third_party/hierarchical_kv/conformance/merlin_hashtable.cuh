// File: merlin_hashtable.cuh
//
// The part of nv::merlin::HashTable's interface that csrc/hkv/upstream_adapter.cuh uses. It stands
// in for NVIDIA HierarchicalKV's header of the same name where that cannot be fetched: objects
// built on it compile, and instantiate what they hand to a kernel of upstream's, but no table is
// behind them. What the adapter has no use for is not here, so that a use does not compile: the
// form of export_batch_if that takes a template, above all, stores values with atomicExch, which
// half-precision values do not have.
#pragma once

#include <cooperative_groups.h>
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

// What upstream asks of a predicate object, of one slot.
template <class K, class V, class S, class Predicate>
__global__ void AskObject(Predicate predicate, K key, const V* value, S score, size_t* counter) {
  namespace cg = cooperative_groups;
  const cg::thread_block_tile<32> group = cg::tiled_partition<32>(cg::this_thread_block());
  auto tile = group;
  if (predicate.template operator()<32>(key, value, score, tile)) ++*counter;
}

// And of a predicate template.
template <class K, class S, template <typename, typename> class Predicate>
__global__ void AskTemplate(K key, S score, const K pattern, const S threshold, size_t* counter) {
  Predicate<K, S> predicate;
  if (predicate(key, score, pattern, threshold)) ++*counter;
}

template <typename K, typename V, typename S = uint64_t, int Strategy = EvictStrategy::kLru>
class HashTable {
  static_assert(Strategy >= EvictStrategy::kLru && Strategy <= EvictStrategy::kCustomized,
                "one of the five strategies");

 public:
  using size_type = size_t;
  using key_type = K;
  using value_type = V;
  using score_type = S;

  void init(const HashTableOptions&, BaseAllocator* = nullptr) {}

  void insert_or_assign(size_type, const key_type*, const value_type*, const score_type* = nullptr,
                        cudaStream_t = 0, bool /*unique_key*/ = true,
                        bool /*ignore_evict_strategy*/ = false) {}
  void insert_and_evict(size_type, const key_type*, const value_type*, const score_type*,
                        key_type* /*evicted_keys*/, value_type* /*evicted_values*/,
                        score_type* /*evicted_scores*/, size_type* /*d_evicted_counter*/,
                        cudaStream_t = 0, bool /*unique_key*/ = true,
                        bool /*ignore_evict_strategy*/ = false) {}
  void accum_or_assign(size_type, const key_type*, const value_type*, const bool*,
                       const score_type* = nullptr, cudaStream_t = 0,
                       bool /*ignore_evict_strategy*/ = false) {}
  void find_or_insert(size_type, const key_type*, value_type*, score_type* = nullptr,
                      cudaStream_t = 0, bool /*unique_key*/ = true,
                      bool /*ignore_evict_strategy*/ = false) {}
  void find_or_insert(size_type, const key_type*, value_type**, bool* /*founds*/,
                      score_type* = nullptr, cudaStream_t = 0, bool /*unique_key*/ = true,
                      bool /*ignore_evict_strategy*/ = false,
                      key_type** /*locked_key_ptrs*/ = nullptr) {}
  void assign(size_type, const key_type*, const value_type*, const score_type* = nullptr,
              cudaStream_t = 0, bool /*unique_key*/ = true) {}
  void assign_scores(size_type, const key_type*, const score_type* = nullptr, cudaStream_t = 0,
                     bool /*unique_key*/ = true) {}
  void assign_values(size_type, const key_type*, const value_type*, cudaStream_t = 0,
                     bool /*unique_key*/ = true) {}
  void lock_keys(size_type, key_type const*, key_type** /*locked_key_ptrs*/,
                 bool* /*success*/ = nullptr, cudaStream_t = 0, score_type const* = nullptr) {}
  void unlock_keys(size_type, key_type** /*locked_key_ptrs*/, const key_type*,
                   bool* /*success*/ = nullptr, cudaStream_t = 0) {}

  void find(size_type, const key_type*, value_type*, bool* /*founds*/, score_type* = nullptr,
            cudaStream_t = 0) const {}
  void find(size_type, const key_type*, value_type*, key_type* /*missed_keys*/,
            int* /*missed_indices*/, int* /*missed_size*/, score_type* = nullptr,
            cudaStream_t = 0) const {}
  void find(size_type, const key_type*, value_type**, bool* /*founds*/, score_type* = nullptr,
            cudaStream_t = 0, bool /*unique_key*/ = true) const {}
  void contains(size_type, const key_type*, bool* /*founds*/, cudaStream_t = 0) const {}

  void erase(size_type, const key_type*, cudaStream_t = 0) {}
  template <template <typename, typename> class PredFunctor>
  size_type erase_if(const key_type& pattern, const score_type& threshold,
                     cudaStream_t stream = 0) {
    AskTemplate<K, S, PredFunctor><<<1, 1, 0, stream>>>(K(), S(), pattern, threshold, nullptr);
    return 0;
  }
  void clear(cudaStream_t = 0) {}

  template <typename PredFunctor>
  void export_batch_if_v2(PredFunctor& pred, size_type, const size_type /*offset*/,
                          size_type* d_counter, key_type*, value_type* values,
                          score_type* = nullptr, cudaStream_t stream = 0) const {
    AskObject<K, V, S, PredFunctor><<<1, 32, 0, stream>>>(pred, K(), values, S(), d_counter);
  }

  size_type size(cudaStream_t = 0) const { return 0; }
  template <template <typename, typename> class PredFunctor>
  void size_if(const key_type& pattern, const score_type& threshold, size_type* d_counter,
               cudaStream_t stream = 0) const {
    AskTemplate<K, S, PredFunctor><<<1, 1, 0, stream>>>(K(), S(), pattern, threshold, d_counter);
  }
  size_type capacity() const { return 0; }
  void reserve(const size_type, cudaStream_t = 0) {}
  void set_max_capacity(size_type) {}
  void set_global_epoch(const uint64_t) {}
};

}  // namespace merlin
}  // namespace nv
