// File: device_table.cuh
//
// A table as a kernel sees it: what HashTable::launch() gives to kernels that look keys up
// themselves. It is passed by value, every thread may ask for a key of its own, and none waits:
//
//   __global__ void Pool(hkv::DeviceTable<int64_t, const float> table, const int64_t* ids, ...) {
//     const float* row = table.find(ids[i]);
//     if (row != nullptr) ...
//   }
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/hkv/probe.cuh"

namespace hkv {

// Value is const where the kernel may not write the rows.
template <class Key, class Value>
class DeviceTable {
 public:
  explicit DeviceTable(const device::View& view) : view_(view) {}

  // The row of `dim()` values of a key, null where the table has it not.
  __device__ __forceinline__ Value* find(Key key) const { return RowAt(PositionOf(key)); }

  // Also its score; an absent key's stays as it is.
  __device__ __forceinline__ Value* find(Key key, uint64_t* score) const {
    const uint32_t position = PositionOf(key);
    if (position != device::kNone) *score = *view_.ScoreAt(position);
    return RowAt(position);
  }

  __device__ __forceinline__ bool contains(Key key) const {
    return PositionOf(key) != device::kNone;
  }

  __host__ __device__ __forceinline__ uint32_t dim() const {
    return view_.row_bytes / static_cast<uint32_t>(sizeof(Value));
  }

 private:
  __device__ __forceinline__ uint32_t PositionOf(Key key) const {
    const auto word = static_cast<uint64_t>(key);
    return device::FindKey<false, false>(view_, view_.layout.PlaceOf(word), word).position;
  }

  __device__ __forceinline__ Value* RowAt(uint32_t position) const {
    return position != device::kNone ? reinterpret_cast<Value*>(view_.RowAt(position)) : nullptr;
  }

  device::View view_;
};

}  // namespace hkv
