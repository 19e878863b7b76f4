// File: for_each.cuh
//
// Whole-table calls with a caller's functor, which sees keys, scores and values. Part of
// hash_table.cuh. The functor runs on the device, one thread a live key, in no particular order:
//
//   struct IsSmall {  // of export_batch_if, erase_if, size_if
//     uint32_t dim;
//     __device__ bool operator()(int64_t key, const float* row, uint64_t score) const;
//   };
//   struct Decay {  // of for_each: it may change the row and the score
//     uint32_t dim;
//     __device__ void operator()(int64_t key, float* row, uint64_t* score) const;
//   };
#pragma once

#include "csrc/hkv/hash_table.cuh"
#include "csrc/hkv/scan_kernels.cuh"

namespace hkv {
namespace device {

// A caller's predicate as the kernels ask.
template <class Key, class Value, class Predicate>
struct OfRow {
  Predicate predicate;

  __device__ __forceinline__ bool operator()(const View& t, uint32_t position, uint64_t key,
                                             uint64_t score) const {
    return predicate(static_cast<Key>(key), reinterpret_cast<const Value*>(t.RowAt(position)),
                     score);
  }
};

template <int kBlock, class Key, class Value, class F>
__global__ void __launch_bounds__(kBlock)
    ForEachKernel(const View t, uint64_t begin, uint64_t end, const F f) {
  const uint64_t row = begin + ThreadIndex();
  if (row >= end) return;
  uint32_t bucket, slot;
  t.layout.Locate(row, &bucket, &slot);
  const uint32_t position = bucket * kBucketSlots + slot;
  if (t.digests[position] < kFirstTag) return;
  uint64_t score = *t.ScoreAt(position);
  const uint64_t before = score;
  f(static_cast<Key>(*t.KeyAt(position)), reinterpret_cast<Value*>(t.RowAt(position)), &score);
  if (score != before) *t.ScoreAt(position) = score;
  if (score < before) atomicAdd(&t.state->lowered, 1);
}

}  // namespace device

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F, class>
uint64_t HashTable<Key, Value, Score, kStrategy>::erase_if(const F& predicate, Stream stream) {
  Scope scope(this, CudaStream(stream), true);
  return ScanAll(device::OfRow<Key, Value, F>{predicate}, true, scope.stream);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F, class>
uint64_t HashTable<Key, Value, Score, kStrategy>::size_if(const F& predicate, Stream stream) const {
  Scope scope(this, CudaStream(stream), false);
  return ScanAll(device::OfRow<Key, Value, F>{predicate}, false, scope.stream);
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F, class>
void HashTable<Key, Value, Score, kStrategy>::export_batch_if(const F& predicate, size_t n,
                                                              size_t offset, uint64_t* count,
                                                              uint64_t* keys, Value* values,
                                                              uint64_t* scores,
                                                              Stream stream) const {
  Scope scope(this, CudaStream(stream), false);
  device::ExportArgs args;
  args.begin = offset;
  args.end = offset + n;
  args.count = count;
  args.keys = keys;
  args.values = reinterpret_cast<char*>(values);
  args.scores = scores;
  CheckRange(args, Capacity());
  Scan(args, device::OfRow<Key, Value, F>{predicate}, scope.stream);
  scope.Launched("export_batch_if");
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F>
void HashTable<Key, Value, Score, kStrategy>::for_each(const F& f, size_t n, size_t offset,
                                                       Stream stream) {
  Scope scope(this, CudaStream(stream), true);
  CheckSlots("for_each", offset, offset + n, Capacity());
  if (n == 0) return;
  device::ForEachKernel<device::kThreads, Key, Value>
      <<<Blocks(n), device::kThreads, 0, scope.stream>>>(storage_->view, offset, offset + n, f);
  scope.Launched("for_each");
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F>
void HashTable<Key, Value, Score, kStrategy>::launch(Stream stream, F launch) const {
  Scope scope(this, CudaStream(stream), false);
  launch(DeviceTable<Key, const Value>(storage_->view));
  scope.Launched("launch");
}

template <class Key, class Value, class Score, EvictStrategy kStrategy>
template <class F>
void HashTable<Key, Value, Score, kStrategy>::launch_writing(Stream stream, F launch) {
  Scope scope(this, CudaStream(stream), true);
  launch(DeviceTable<Key, Value>(storage_->view));
  scope.Launched("launch_writing");
}

}  // namespace hkv
