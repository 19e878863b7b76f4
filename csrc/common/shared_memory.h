// File: shared_memory.h
//
// How much shared memory a GPU has, which decides between the blockings of a kernel, and how a
// kernel gets it.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "csrc/common/device.h"
#include "csrc/common/portable.h"

namespace accel {

struct SharedMemory {
  static constexpr int kReserved = 1024;  // bytes of every block, by the driver

  int processor = 0;  // bytes of a multiprocessor

  // The most that one block may ask for.
  constexpr int Block() const { return processor - kReserved; }

  // How many blocks that ask for `bytes` each fit on a multiprocessor, `at_most` counted.
  constexpr int Blocks(int bytes, int at_most) const {
    return Min(processor / (bytes + kReserved), at_most);
  }
};

constexpr SharedMemory kSm80Memory{164 * 1024}, kSm86Memory{100 * 1024};

// That of the current device, or at most `at_most_kb` kilobytes if that is above 0.
inline cudaError_t SharedMemoryOfDevice(int at_most_kb, SharedMemory* out) {
  int bytes = 0;
  if (const cudaError_t e = DeviceAttribute<cudaDevAttrMaxSharedMemoryPerMultiprocessor>(&bytes)) {
    return e;
  }
  out->processor = at_most_kb > 0 ? Min(at_most_kb * 1024, bytes) : bytes;
  return cudaSuccess;
}

// Allows the kernel its dynamic shared memory, once per device; legal during graph capture.
template <auto kKernel>
cudaError_t AllowSharedMemory(int bytes) {
  static std::atomic<bool> allowed[kMaxDevices];
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (device < kMaxDevices && allowed[device].load()) return cudaSuccess;
  if (const cudaError_t e =
          cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) {
    return e;
  }
  // Without this, fewer blocks may share a multiprocessor than would fit.
  if (const cudaError_t e =
          cudaFuncSetAttribute(kKernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared)) {
    return e;
  }
  if (device < kMaxDevices) allowed[device].store(true);
  return cudaSuccess;
}

}  // namespace accel
