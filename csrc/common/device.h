// File: device.h
//
// What the driver says of the current device, asked once for each.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

namespace accel {

constexpr int kMaxDevices = 64;  // whose answers are kept

// An attribute that is never 0.
template <cudaDeviceAttr kAttribute>
cudaError_t DeviceAttribute(int* value) {
  static std::atomic<int> known[kMaxDevices];
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  *value = device < kMaxDevices ? known[device].load() : 0;
  if (*value != 0) return cudaSuccess;
  if (const cudaError_t e = cudaDeviceGetAttribute(value, kAttribute, device)) return e;
  if (device < kMaxDevices) known[device].store(*value);
  return cudaSuccess;
}

// Multiprocessors of the current device; 0: it cannot be asked.
inline int ProcessorCount() {
  int count = 0;
  const cudaError_t e = DeviceAttribute<cudaDevAttrMultiProcessorCount>(&count);
  return e == cudaSuccess ? count : 0;
}

}  // namespace accel
