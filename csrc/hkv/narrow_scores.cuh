// File: narrow_scores.cuh
//
// Scores of 32 bits: HashTable<..., uint32_t, EvictStrategy::kCustomized>. The table keeps 64; the
// calls that take or give scores have arrays of uint32_t, which are widened and narrowed in stream
// order, beside the call. A score beyond 2^32 - 1 (of a file) is given as that.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/device.cuh"
#include "csrc/hkv/hash_table.cuh"

namespace hkv {
namespace device {

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    WidenKernel(uint64_t n, const uint32_t* from, uint64_t* to) {
  const uint64_t i = ThreadIndex();
  if (i < n) to[i] = from[i];
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    NarrowKernel(uint64_t n, const uint64_t* from, uint32_t* to) {
  const uint64_t i = ThreadIndex();
  if (i < n) to[i] = from[i] < UINT32_MAX ? static_cast<uint32_t>(from[i]) : UINT32_MAX;
}

}  // namespace device

template <class Key, class Value>
class HashTable<Key, Value, uint32_t, EvictStrategy::kCustomized>
    : public HashTable<Key, Value, uint64_t, EvictStrategy::kCustomized> {
  using Base = HashTable<Key, Value, uint64_t, EvictStrategy::kCustomized>;

 public:
  using Base::Base;

  void find(size_t n, const uint64_t* keys, void* values, bool* founds, uint32_t* scores,
            Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::find(n, keys, values, founds, wide.scores(), stream);
    wide.Narrow(scores);
  }
  void find_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds, uint32_t* scores,
                     Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::find_pointers(n, keys, rows, founds, wide.scores(), stream);
    wide.Narrow(scores);
  }
  void find_and_update(size_t n, const uint64_t* keys, void* values, bool* founds,
                       const uint32_t* scores, uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::find_and_update(n, keys, values, founds, wide.given(), status, stream);
  }
  void find_or_insert(size_t n, const uint64_t* keys, void* values, bool* founds,
                      const uint32_t* scores, uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::find_or_insert(n, keys, values, founds, wide.given(), status, stream);
  }
  void find_or_insert_pointers(size_t n, const uint64_t* keys, void** rows, bool* founds,
                               const uint32_t* scores, bool lock, uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::find_or_insert_pointers(n, keys, rows, founds, wide.given(), lock, status, stream);
  }
  void insert_or_assign(size_t n, const uint64_t* keys, const void* values, const uint32_t* scores,
                        bool ignore_evict_strategy, uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::insert_or_assign(n, keys, values, wide.given(), ignore_evict_strategy, status, stream);
  }
  void insert_and_evict(size_t n, const uint64_t* keys, const void* values, const uint32_t* scores,
                        uint64_t* evicted_keys, void* evicted_values, uint32_t* evicted_scores,
                        uint64_t* evicted_count, bool ignore_evict_strategy, uint8_t* status,
                        Stream stream) {
    const Wide wide(this, n, scores, stream), out(this, n, evicted_scores, stream);
    Table::insert_and_evict(n, keys, values, wide.given(), evicted_keys, evicted_values,
                            out.scores(), evicted_count, ignore_evict_strategy, status, stream);
    out.Narrow(evicted_scores);
  }
  void accum_or_assign(size_t n, const uint64_t* keys, const void* values_or_deltas,
                       const bool* accums, const uint32_t* scores, uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::accum_or_assign(n, keys, values_or_deltas, accums, wide.given(), status, stream);
  }
  void assign(size_t n, const uint64_t* keys, const void* values, const uint32_t* scores,
              uint8_t* status, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::assign(n, keys, values, wide.given(), status, stream);
  }
  void assign_scores(size_t n, const uint64_t* keys, const uint32_t* scores, uint8_t* status,
                     Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::assign_scores(n, keys, wide.given(), status, stream);
  }
  void export_batch(size_t n, size_t offset, uint64_t* count, uint64_t* keys, void* values,
                    uint32_t* scores, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::export_batch(n, offset, count, keys, values, wide.scores(), stream);
    wide.Narrow(scores);
  }
  void export_batch_if(const Predicate& predicate, size_t n, size_t offset, uint64_t* count,
                       uint64_t* keys, void* values, uint32_t* scores, Stream stream) {
    const Wide wide(this, n, scores, stream);
    Table::export_batch_if(predicate, n, offset, count, keys, values, wide.scores(), stream);
    wide.Narrow(scores);
  }

 private:
  // Scores as the table has them, for as long as the call; none for none.
  class Wide {
   public:
    Wide(const Table* table, size_t n, const uint32_t* scores, Stream stream)
        : device_(table->device()), n_(n), stream_(static_cast<cudaStream_t>(stream)) {
      if (n == 0 || scores == nullptr) return;
      memory_ = accel::Buffer(n * 8, "scores of 64 bits", stream_);
      device::WidenKernel<device::kThreads>
          <<<Blocks(), device::kThreads, 0, stream_>>>(n, scores, this->scores());
      accel::CheckCuda(cudaGetLastError(), "widening scores");
    }

    uint64_t* scores() const { return memory_.As<uint64_t>(); }
    const uint64_t* given() const { return scores(); }  // what the call only reads

    void Narrow(uint32_t* to) const {
      if (scores() == nullptr) return;
      device::NarrowKernel<device::kThreads>
          <<<Blocks(), device::kThreads, 0, stream_>>>(n_, scores(), to);
      accel::CheckCuda(cudaGetLastError(), "narrowing scores");
    }

   private:
    unsigned Blocks() const {
      return static_cast<unsigned>((n_ + device::kThreads - 1) / device::kThreads);
    }

    accel::DeviceGuard device_;
    size_t n_;
    cudaStream_t stream_;
    accel::Buffer memory_;
  };
};

}  // namespace hkv
