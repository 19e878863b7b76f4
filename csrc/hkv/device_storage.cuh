// File: device_storage.cuh
//
// The memory of a table: its arrays, and what large batches need beside them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <utility>

#include "csrc/hkv/equals.cuh"
#include "csrc/hkv/passes.cuh"
#include "csrc/hkv/table_memory.cuh"
#include "csrc/hkv/types.h"

namespace hkv {

// The device arrays of a table; growing makes another set. Its rows may come later.
struct DeviceStorage {
  DeviceStorage(const HashTableOptions& options, uint64_t capacity, uint32_t row_bytes) {
    const Layout layout = Layout::Of(capacity);
    const uint64_t slots = static_cast<uint64_t>(layout.num_buckets) * kBucketSlots;
    const auto on_device = [&](uint64_t bytes, const char* what) {
      return TableMemory(options.allocator, MemoryKind::kDevice, bytes, what);
    };
    digests = on_device(slots, "digests");
    entries = on_device(slots * 16, "keys and scores");
    locks = on_device(layout.num_buckets * uint64_t{4} * device::kLocksPerBucket, "key locks");
    busy = on_device(slots / 8, "row locks");
    buckets = on_device(layout.num_buckets * sizeof(device::BucketState), "evictions");
    given = on_device(slots / 4, "rows of a call");
    touched = on_device((layout.num_buckets + 31) / 32 * uint64_t{4}, "rows of a call");
    state = on_device(sizeof(device::CallState), "rows of a call");
    view.layout = layout;
    view.digests = digests.As<uint8_t>();
    view.entries = entries.As<uint64_t>();
    view.locks = locks.As<uint32_t>();
    view.busy = busy.As<uint32_t>();
    view.buckets = buckets.As<device::BucketState>();
    view.given = given.As<uint64_t>();
    view.state = state.As<device::CallState>();
    view.row_bytes = row_bytes;
  }

  // Memory for the rows, the first of them in device memory.
  void AllocateRows(const HashTableOptions& options) {
    const uint64_t capacity = view.layout.capacity;
    const uint64_t in_hbm = std::min(capacity, options.max_hbm_for_vectors / view.row_bytes);
    TableMemory rows(options.allocator, MemoryKind::kDevice, in_hbm * view.row_bytes, "rows");
    host_rows = TableMemory(options.allocator, MemoryKind::kPinnedHost,
                            (capacity - in_hbm) * view.row_bytes, "rows");
    view.host_rows = host_rows.As<char>();
    view.num_hbm_rows = in_hbm;
    SetHbmRows(std::move(rows));
  }

  void SetHbmRows(TableMemory rows) {
    hbm_rows = std::move(rows);
    view.hbm_rows = hbm_rows.As<char>();
  }

  // The stamps of calls, which are numbered from 1 on.
  void ClearStamps(cudaStream_t stream) const {
    CheckCuda(cudaMemsetAsync(given.As<char>(), 0, given.bytes(), stream), "clear");
    CheckCuda(cudaMemsetAsync(state.As<char>(), 0, state.bytes(), stream), "clear");
  }

  TableMemory digests, entries, locks, busy, buckets, given, touched, state, holders, pinned,
      hbm_rows, host_rows;
  device::View view;
};

// The device memory that a batch of up to kKeys keys needs to be written in passes; longer ones are
// written part by part.
class PassMemory {
 public:
  static constexpr uint64_t kKeys = 1 << 20;

  explicit PassMemory(const Allocator& allocator)
      : counters_(allocator, MemoryKind::kDevice, kFilterOffset + kKeys * kFilterBytes, "a filter"),
        lists_(allocator, MemoryKind::kDevice,
               kKeys * (sizeof(device::Waiter) + 3 * sizeof(uint32_t)), "lists of keys") {}

  // The plan for n keys, once what stands before the call on the stream is done.
  device::Plan Start(const DeviceStorage& storage, uint64_t n, bool marks,
                     cudaStream_t stream) const {
    uint64_t filter_keys = 32;
    while (filter_keys < n) filter_keys *= 2;
    char* const counters = counters_.As<char>();
    CheckCuda(cudaMemsetAsync(counters, 0, kFilterOffset + filter_keys * kFilterBytes, stream),
              "clearing a filter");
    device::Plan plan;
    plan.counters = reinterpret_cast<unsigned long long*>(counters);
    plan.filter = reinterpret_cast<uint32_t*>(counters + kFilterOffset);
    plan.filter_mask = static_cast<uint32_t>(filter_keys * kFilterBytes / 4 - 1);
    plan.waiters = lists_.As<device::Waiter>();
    plan.rest = reinterpret_cast<uint32_t*>(plan.waiters + kKeys);
    plan.buckets = plan.rest + kKeys;
    plan.pending = plan.buckets + kKeys;
    if (marks) {
      CheckCuda(cudaMemsetAsync(storage.touched.As<char>(), 0, storage.touched.bytes(), stream),
                "clearing a filter");
      plan.positions = plan.pending;
      plan.touched = storage.touched.As<uint32_t>();
    }
    return plan;
  }

 private:
  static constexpr uint64_t kFilterOffset = 256;  // behind the counters
  static constexpr uint64_t kFilterBytes = 8;     // per key of a batch

  TableMemory counters_, lists_;
};

// The device memory that tells up to kKeys keys apart.
class EqualsMemory {
 public:
  static constexpr uint64_t kKeys = PassMemory::kKeys;

  EqualsMemory(const Allocator& allocator, cudaStream_t stream)
      : counters_(allocator, MemoryKind::kDevice, kCountersBytes, "counters of equal keys"),
        map_(allocator, MemoryKind::kDevice, kMapBytes, "a map of keys"),
        lists_(allocator, MemoryKind::kDevice, 3 * kKeys * sizeof(uint32_t),
               "lists of equal keys") {
    CheckCuda(cudaMemsetAsync(counters_.As<char>(), 0, kCountersBytes, stream),
              "clearing counters");
    CheckCuda(cudaMemsetAsync(map_.As<char>(), 0xff, kMapBytes, stream), "clearing a map");
  }

  device::Equals Get() const {
    uint32_t* const lists = lists_.As<uint32_t>();
    return {counters_.As<unsigned long long>(), map_.As<uint32_t>(), lists, lists + kKeys,
            lists + 2 * kKeys};
  }

 private:
  static constexpr uint64_t kCountersBytes =
      device::kNumEqualsCounters * sizeof(unsigned long long);
  static constexpr uint64_t kMapBytes = device::MapSize(kKeys) * sizeof(uint32_t);

  TableMemory counters_, map_, lists_;
};

// The device memory in which up to kKeys rows of host memory are put in order.
class HostBins {
 public:
  static constexpr uint64_t kKeys = uint64_t{device::kHostBins} * device::kHostBinKeys;
  static constexpr uint64_t kFrom = 1 << 14;  // it pays for batches of so many keys

  explicit HostBins(const Allocator& allocator)
      : sizes_(allocator, MemoryKind::kDevice, kSizesBytes, "counters of bins"),
        moves_(allocator, MemoryKind::kDevice,
               uint64_t{device::kHostBins} * device::kHostBinSlots * sizeof(uint2),
               "bins of rows") {}

  device::HostMoves Start(cudaStream_t stream) const {
    CheckCuda(cudaMemsetAsync(sizes_.As<char>(), 0, kSizesBytes, stream), "clearing counters");
    return {sizes_.As<uint32_t>(), moves_.As<uint2>()};
  }

 private:
  static constexpr uint64_t kSizesBytes = device::kHostBins * sizeof(uint32_t);

  TableMemory sizes_, moves_;
};

}  // namespace hkv
