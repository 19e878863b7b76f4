// File: on_device.h
//
// What every GPU engine says of itself to Table: its options on their device, its types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/checks.h"
#include "csrc/hkv/types.h"

namespace hkv {

// The options, checked, on the device that they name or on the current one.
inline HashTableOptions OnDevice(const HashTableOptions& options) {
  HashTableOptions checked = CheckedOptions(options);
  int count = 0;
  accel::CheckCuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (checked.device_id < 0) accel::CheckCuda(cudaGetDevice(&checked.device_id), "cudaGetDevice");
  if (checked.device_id >= count) {
    FailArgument("device_id is ", checked.device_id, "; there are ", count, " CUDA devices");
  }
  return checked;
}

template <class T>
constexpr KeyType KeyTypeOf() {
  static_assert(std::is_same<T, int64_t>::value || std::is_same<T, uint64_t>::value,
                "keys are int64_t or uint64_t");
  return std::is_same<T, int64_t>::value ? KeyType::kInt64 : KeyType::kUInt64;
}

template <class T>
struct ValueTypeName;  // values have one of these types
template <>
struct ValueTypeName<float> : std::integral_constant<ValueType, ValueType::kFloat32> {};
template <>
struct ValueTypeName<__half> : std::integral_constant<ValueType, ValueType::kFloat16> {};
template <>
struct ValueTypeName<__nv_bfloat16> : std::integral_constant<ValueType, ValueType::kBFloat16> {};
template <>
struct ValueTypeName<int8_t> : std::integral_constant<ValueType, ValueType::kInt8> {};
template <>
struct ValueTypeName<uint8_t> : std::integral_constant<ValueType, ValueType::kUInt8> {};
template <>
struct ValueTypeName<int32_t> : std::integral_constant<ValueType, ValueType::kInt32> {};
template <>
struct ValueTypeName<double> : std::integral_constant<ValueType, ValueType::kFloat64> {};

template <class T>
constexpr ValueType ValueTypeOf() {
  return ValueTypeName<T>::value;
}

}  // namespace hkv
