// File: upstream_adapter.cuh
//
// NVIDIA HierarchicalKV (nv::merlin::HashTable) as a Table. What upstream
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
#include "csrc/hkv/on_device.h"
#include "csrc/hkv/table.h"
#include "merlin_hashtable.cuh"

namespace hkv {

template <class Key, class Score>
struct ScoreAtLeast {
  __forceinline__ __device__ bool operator()(const Key&, const Score& score, const Key&,
                                             const Score& threshold) {
    return score >= threshold;
  }
};

template <class Key, class Value, class Score, EvictStrategy kStrategy>
class UpstreamTable final : public Table {
  using Upstream = nv::merlin::HashTable<Key, Value, Score, static_cast<int>(kStrategy)>;

 public:
  explicit UpstreamTable(const HashTableOptions& options)
      : Table(OnDevice(options), KeyTypeOf<Key>(), ValueTypeOf<Value>(), kStrategy, "upstream") {
    if (options_.score_policy != ScorePolicy::kDefault) Lacks("score policies");
    if (options_.newcomers != Newcomers::kByScore) Lacks("newcomers other than by_score");
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

  uint64_t erase_if(const Predicate& predicate, Stream stream) override {
    CheckPredicate(predicate);
    return table_.template erase_if<ScoreAtLeast>(Key{}, predicate.score_min, CudaStream(stream));
  }
  void clear(Stream stream) override { table_.clear(CudaStream(stream)); }
  uint64_t size(Stream stream) const override { return table_.size(CudaStream(stream)); }
  uint64_t size_if(const Predicate& predicate, Stream on) const override {
    CheckPredicate(predicate);
    const cudaStream_t stream = CudaStream(on);
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
  uint64_t capacity() const override { return table_.capacity(); }
  void reserve(uint64_t capacity, Stream stream) override {
    CheckReserve(capacity, options_.max_capacity);
    table_.reserve(capacity, CudaStream(stream));
  }
  void set_max_capacity(uint64_t) override { Lacks("set_max_capacity"); }
  uint64_t locked(Stream) const override { Lacks("locked"); }
  RowsView rows() const override { Lacks("rows"); }
  void set_global_epoch(uint64_t epoch) override { table_.set_global_epoch(epoch); }
  void set_clock(uint64_t) override { Lacks("set_clock"); }
  uint64_t save(const std::string&, Stream) const override { Lacks("save"); }
  uint64_t load(const std::string&, Stream) override { Lacks("load"); }
  void synchronize(Stream stream) const override {
    accel::DeviceGuard device(options_.device_id);
    accel::CheckCuda(cudaStreamSynchronize(CudaStream(stream)), "synchronize");
  }

 private:
  void Do(const Segments&, const Read&, Stream) override { Lacks("calls over many tables"); }
  void Do(const Segments&, const Write&, Stream) override { Lacks("calls over many tables"); }
  void Do(const Segments&, const SegmentsExport&, Stream) const override {
    Lacks("calls over many tables");
  }

  void Do(const Read& c, Stream on) override {
    const cudaStream_t stream = CudaStream(on);
    const auto* keys = reinterpret_cast<const Key*>(c.keys);
    if (c.missed_size != nullptr) Lacks(c.name);
    if (c.row_numbers != nullptr) Lacks("row numbers");
    CheckPitch(c.pitch);
    if (c.rows != nullptr) {
      table_.find(c.n, keys, reinterpret_cast<Value**>(c.rows), c.founds, c.scores, stream);
    } else if (c.values != nullptr) {
      table_.find(c.n, keys, Values(c.values), c.founds, c.scores, stream);
    } else {
      table_.contains(c.n, keys, c.founds, stream);
    }
  }

  void Do(const Write& c, Stream on) override {
    const cudaStream_t stream = CudaStream(on);
    const auto* keys = reinterpret_cast<const Key*>(c.keys);
    Value* const values = Values(c.values);
    if (c.status != nullptr) Lacks("statuses");
    if (c.pin) Lacks("find_or_insert_pointers with lock");
    if (c.row_numbers != nullptr) Lacks("row numbers");
    if (c.policy != ScorePolicy::kDefault) Lacks("score policies");
    if (c.mode == WriteMode::kFindOrInsert && c.evicted_keys != nullptr) {
      Lacks("find_or_insert that reports evicted keys");
    }
    CheckPitch(c.pitch);
    switch (c.mode) {
      case WriteMode::kInsertOrAssign:
        table_.insert_or_assign(c.n, keys, values, c.scores, stream, false, c.verbatim);
        return;
      case WriteMode::kInsertAndEvict:
        accel::CheckCuda(cudaMemsetAsync(c.evicted_count, 0, 8, stream), c.name);
        table_.insert_and_evict(c.n, keys, values, c.scores, reinterpret_cast<Key*>(c.evicted_keys),
                                Values(c.evicted_values), c.evicted_scores, c.evicted_count, stream,
                                false, c.verbatim);
        return;
      case WriteMode::kFindOrInsert:
        if (c.rows != nullptr) {
          table_.find_or_insert(c.n, keys, reinterpret_cast<Value**>(c.rows), c.founds,
                                const_cast<uint64_t*>(c.scores), stream, false);
          return;
        }
        if (c.founds != nullptr) table_.contains(c.n, keys, c.founds, stream);
        table_.find_or_insert(c.n, keys, values, const_cast<uint64_t*>(c.scores), stream, false);
        return;
      case WriteMode::kAccumOrAssign:
        table_.accum_or_assign(c.n, keys, values, c.accums, c.scores, stream);
        return;
      case WriteMode::kAssign:
        if (!c.touch_scores) return table_.assign_values(c.n, keys, values, stream, false);
        if (values == nullptr) return table_.assign_scores(c.n, keys, c.scores, stream, false);
        return table_.assign(c.n, keys, values, c.scores, stream, false);
      case WriteMode::kErase:
        return table_.erase(c.n, keys, stream);
      default:
        Lacks(c.name);
    }
  }

  void Do(const Export& c, Stream on) const override {
    const cudaStream_t stream = CudaStream(on);
    CheckRange(c, capacity());
    CheckPitch(c.pitch);
    CheckPredicate(c.predicate);
    auto* const keys = reinterpret_cast<Key*>(c.keys);
    const uint64_t n = c.end - c.begin;
    accel::CheckCuda(cudaMemsetAsync(c.count, 0, 8, stream), "export_batch");
    if (c.predicate.score_min == 0) {
      table_.export_batch(n, c.begin, c.count, keys, Values(c.values), c.scores, stream);
    } else {
      table_.template export_batch_if<ScoreAtLeast>(Key{}, c.predicate.score_min, n, c.begin,
                                                    c.count, keys, Values(c.values), c.scores,
                                                    stream);
    }
  }

  static cudaStream_t CudaStream(Stream stream) { return static_cast<cudaStream_t>(stream); }
  static Value* Values(char* rows) { return reinterpret_cast<Value*>(rows); }

  [[noreturn]] static void Lacks(const char* what) {
    FailArgument("the upstream engine has no ", what,
                 "; the native engine has (--//third_party/hierarchical_kv:engine=native)");
  }
  void CheckPitch(uint64_t pitch) const {
    if (pitch != 0 && pitch != row_bytes()) Lacks("rows of values with gaps between them");
  }
  static void CheckPredicate(const Predicate& p) {
    if (p.key_mask != 0 || p.key_pattern != 0 || p.score_max != UINT64_MAX) {
      Lacks("predicates but for score_min");
    }
  }

  Upstream table_;
};

}  // namespace hkv
