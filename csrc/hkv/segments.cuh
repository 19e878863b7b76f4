// File: segments.cuh
//
// Calls over many tables, launched. Part of native_table.cuh.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <vector>

#include "csrc/hkv/host_segments.h"
#include "csrc/hkv/launch.cuh"
#include "csrc/hkv/native_table.cuh"
#include "csrc/hkv/segments_kernel.cuh"

namespace hkv {

// A call on a stream: every table's mutex, their device, and their places among the streams.
class NativeTable::SegmentsScope {
 public:
  SegmentsScope(const Segments& segments, cudaStream_t stream, bool writes)
      : stream(stream), device_(segments.tables[0]->device()), writes_(writes) {
    for (uint64_t t = 0; t < segments.count; ++t) tables.push_back(Of(segments, t));
    std::vector<NativeTable*> in_order(tables);
    std::sort(in_order.begin(), in_order.end(), std::less<NativeTable*>());
    for (NativeTable* table : in_order) locks_.emplace_back(table->mutex_);
    for (NativeTable* table : tables) table->order_.Before(stream, writes);
  }
  ~SegmentsScope() noexcept(false) {
    if (std::uncaught_exceptions() > 0) return;
    for (NativeTable* table : tables) table->order_.After(stream, writes_);
  }

  // The tables of the launch that begins with table `first`.
  device::SegmentTables Launch(uint64_t first, const uint64_t* offsets, uint64_t pitch,
                               const void* a, const void* b, const Write* call) const {
    device::SegmentTables launch;
    launch.count =
        static_cast<uint32_t>(std::min<uint64_t>(tables.size() - first, device::kSegmentTables));
    launch.offsets = offsets + first;
    for (uint32_t t = 0; t < launch.count; ++t) {
      const NativeTable& table = *tables[first + t];
      device::SegmentTable& entry = launch.table[t];
      entry.view = table.storage_->view;
      entry.epoch = table.epoch_;
      entry.clock_offset = table.clock_offset_;
      entry.word_bytes = table.WordBytes(pitch, a, b);
      if (call != nullptr) entry.rule = table.RuleOf(*call);
      entry.admits_all = table.options_.newcomers == Newcomers::kAlways;
      entry.at_home = table.options_.evict_from == EvictFrom::kHomeBucket;
    }
    return launch;
  }

  const cudaStream_t stream;
  std::vector<NativeTable*> tables;

 private:
  static NativeTable* Of(const Segments& segments, uint64_t t) {
    return static_cast<NativeTable*>(segments.tables[t]);
  }

  accel::DeviceGuard device_;
  std::vector<std::unique_lock<std::mutex>> locks_;
  bool writes_;
};

HKV_KERNELS_INLINE void NativeTable::DoAll(const Segments& segments, const Read& call, Stream on) {
  SegmentsScope scope(segments, CudaStream(on), false);
  if (call.n == 0) return;
  const device::LookupArgs args{call};
  for (uint64_t first = 0; first < segments.count; first += device::kSegmentTables) {
    const device::SegmentTables launch =
        scope.Launch(first, segments.offsets, call.pitch, call.values, nullptr, nullptr);
    const unsigned blocks = Blocks(device::SegmentThreads(call.n, launch.count));
    if (call.values != nullptr) {
      device::LookupSegmentsKernel<true>
          <<<blocks, device::kThreads, 0, scope.stream>>>(launch, args);
    } else {
      device::LookupSegmentsKernel<false>
          <<<blocks, device::kThreads, 0, scope.stream>>>(launch, args);
    }
    CheckCuda(cudaGetLastError(), call.name);
  }
}

HKV_KERNELS_INLINE void NativeTable::DoAll(const Segments& segments, const Write& call, Stream on) {
  constexpr int kThreads = device::kThreads;
  if (call.mode == WriteMode::kAccumOrAssign || call.mode == WriteMode::kAssign ||
      call.mode == WriteMode::kFindAndUpdate) {
    FailArgument(call.name, ": is not made for many GPU tables at once; call it on each");
  }
  SegmentsScope scope(segments, CudaStream(on), true);
  if (call.evicted_count != nullptr) {
    CheckCuda(cudaMemsetAsync(call.evicted_count, 0, 8 * segments.count, scope.stream), call.name);
  }
  for (NativeTable* table : scope.tables) {
    if (UsesHolders(call)) table->NeedHolders(call.name, scope.stream);
  }
  if (call.n == 0) return;
  const auto grows = [](NativeTable* table) { return table->Capacity() < table->max_capacity(); };
  if (Inserts(call.mode) && std::any_of(scope.tables.begin(), scope.tables.end(), grows)) {
    std::vector<uint64_t> offsets(segments.count + 1);
    CheckCuda(cudaMemcpyAsync(offsets.data(), segments.offsets, 8 * offsets.size(),
                              cudaMemcpyDeviceToHost, scope.stream),
              call.name);
    CheckCuda(cudaStreamSynchronize(scope.stream), call.name);
    CheckOffsets({segments.count, segments.tables, offsets.data()}, call.name, call.n);
    for (uint64_t t = 0; t < segments.count; ++t) {
      scope.tables[t]->MakeRoom(offsets[t + 1] - offsets[t], call.keys + offsets[t], scope.stream);
    }
  }
  device::UpsertArgs args{call};
  args.hands_out = args.ends_call = HandsOutRows(call);
  for (uint64_t first = 0; first < segments.count; first += device::kSegmentTables) {
    const device::SegmentTables launch =
        scope.Launch(first, segments.offsets, call.pitch, call.values, call.evicted_values, &call);
    args.evicted_count = call.evicted_count == nullptr ? nullptr : call.evicted_count + first;
    const unsigned blocks = Blocks(device::SegmentThreads(call.n, launch.count));
    switch (call.mode) {
      case WriteMode::kInsertOrAssign:
        device::UpsertSegmentsKernel<WriteMode::kInsertOrAssign>
            <<<blocks, kThreads, 0, scope.stream>>>(launch, args);
        break;
      case WriteMode::kInsertAndEvict:
        device::UpsertSegmentsKernel<WriteMode::kInsertAndEvict>
            <<<blocks, kThreads, 0, scope.stream>>>(launch, args);
        break;
      case WriteMode::kFindOrInsert:
        device::UpsertSegmentsKernel<WriteMode::kFindOrInsert>
            <<<blocks, kThreads, 0, scope.stream>>>(launch, args);
        break;
      default:
        device::ChangeSegmentsKernel<kThreads><<<blocks, kThreads, 0, scope.stream>>>(launch, call);
    }
    CheckCuda(cudaGetLastError(), call.name);
  }
}

HKV_KERNELS_INLINE void NativeTable::DoAll(const Segments& segments, const SegmentsExport& call,
                                           Stream on) const {
  SegmentsScope scope(segments, CudaStream(on), false);
  CheckCuda(cudaMemsetAsync(call.out.count, 0, 8 * segments.count, scope.stream), "export_batch");
  uint64_t before = 0;
  for (uint64_t first = 0; first < segments.count; first += device::kSegmentTables) {
    const device::SegmentTables launch =
        scope.Launch(first, segments.offsets, call.out.pitch, call.out.values, nullptr, nullptr);
    device::SegmentSlots slots;
    slots.offset[0] = before;
    for (uint32_t t = 0; t < launch.count; ++t) {
      slots.begin[t] = call.begin[first + t];
      slots.offset[t + 1] = slots.offset[t] + call.end[first + t] - call.begin[first + t];
    }
    before = slots.offset[launch.count];
    const uint64_t n = before - slots.offset[0];
    device::ExportArgs args{call.out};
    args.count += first;
    if (n > 0) {
      device::ExportSegmentsKernel<device::kThreads>
          <<<Blocks(device::SegmentThreads(n, launch.count)), device::kThreads, 0, scope.stream>>>(
              launch, slots, args);
    }
    CheckCuda(cudaGetLastError(), "export_batch");
  }
}

}  // namespace hkv
