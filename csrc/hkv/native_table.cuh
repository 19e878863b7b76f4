// File: native_table.cuh
//
// What every HashTable has, whatever its types: its memory, its place among the streams, and the
// calls over many of them (segments.cuh).
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>

#include "csrc/common/cuda_memory.h"
#include "csrc/common/stream_order.h"
#include "csrc/hkv/device_storage.cuh"
#include "csrc/hkv/table.h"
#include "csrc/hkv/upsert.cuh"

namespace hkv {

class NativeTable : public Table {
 protected:
  NativeTable(const HashTableOptions& options, KeyType key, ValueType value, EvictStrategy strategy)
      : Table(options, key, value, strategy, "native"), order_(options_.api_lock) {}

  static cudaStream_t CudaStream(Stream stream) { return static_cast<cudaStream_t>(stream); }

  static unsigned Blocks(uint64_t n) {
    return static_cast<unsigned>((n + device::kThreads - 1) / device::kThreads);
  }

  uint64_t Capacity() const { return storage_->view.layout.capacity; }
  uint64_t Pitch(uint64_t pitch) const { return pitch == 0 ? row_bytes_ : pitch; }

  // The widest word that suits the rows, their pitch, and the caller's arrays.
  uint32_t WordBytes(uint64_t pitch, const void* a, const void* b = nullptr) const {
    const uint64_t bits =
        row_bytes_ | pitch | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
    return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : bits % 2 == 0 ? 2 : 1;
  }

  // What of a call is the table's.
  void Complete(device::UpsertArgs* args) const {
    args->epoch = epoch_;
    args->clock_offset = clock_offset_;
    args->rule = RuleOf(*args);
    args->admits_all = options_.newcomers == Newcomers::kAlways;
    args->at_home = options_.evict_from == EvictFrom::kHomeBucket;
    args->pitch = Pitch(args->pitch);
    args->word_bytes = WordBytes(args->pitch, args->values, args->evicted_values);
    args->hands_out = HandsOutRows(*args);
    args->ends_call = args->hands_out;
  }

  static bool UsesHolders(const Write& call) {
    return call.pin || (call.mode >= WriteMode::kLock && call.mode <= WriteMode::kUnlockRows);
  }

  // The holders of rows exist from their first use on.
  void NeedHolders(const char* call, cudaStream_t stream) {
    if (storage_->view.pinned != nullptr) return;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CheckCuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    accel::Check(status == cudaStreamCaptureStatusNone, call,
                 ": the table's first call that locks rows takes memory, so it cannot be captured "
                 "into a graph; make one (of no keys) before");
    const uint64_t slots = static_cast<uint64_t>(storage_->view.layout.num_buckets) * kBucketSlots;
    TableMemory holders(options_.allocator, MemoryKind::kDevice, slots * 4, "the holders of rows");
    TableMemory pinned(options_.allocator, MemoryKind::kDevice, slots / 8, "the holders of rows");
    CheckCuda(cudaMemsetAsync(holders.As<char>(), 0, holders.bytes(), stream), call);
    CheckCuda(cudaMemsetAsync(pinned.As<char>(), 0, pinned.bytes(), stream), call);
    storage_->holders = std::move(holders);
    storage_->pinned = std::move(pinned);
    storage_->view.holders = storage_->holders.As<uint32_t>();
    storage_->view.pinned = storage_->pinned.As<uint32_t>();
  }

  // Grows a table that may still grow when n more keys ask for it (keys: or null).
  virtual void MakeRoom(uint64_t n, const uint64_t* keys, cudaStream_t stream) = 0;

  uint32_t row_bytes_ = 0;
  uint64_t epoch_ = 0;
  uint64_t clock_offset_ = 0;  // of the table's clock from the device's
  uint64_t size_bound_ = 0;    // at least the number of live keys, while the table may grow
  int multiprocessors_ = 0;
  std::unique_ptr<DeviceStorage> storage_;
  std::unique_ptr<PassMemory> pass_memory_;
  std::unique_ptr<EqualsMemory> equals_memory_;
  mutable std::unique_ptr<HostBins> host_bins_;
  TableMemory counter_, host_counter_;
  mutable accel::StreamOrder order_;
  mutable std::mutex mutex_;

 private:
  // segments.cuh
  class SegmentsScope;
  void DoAll(const Segments& segments, const Read& call, Stream stream) final;
  void DoAll(const Segments& segments, const Write& call, Stream stream) final;
  void DoAll(const Segments& segments, const SegmentsExport& call, Stream stream) const final;
};

}  // namespace hkv

// A library of many tables compiles these once.
#if !defined(HKV_KERNELS_APART)
#include "csrc/hkv/segments.cuh"
#endif
