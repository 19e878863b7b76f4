// File: shared_memory.cu
//
// Asks the driver once per device.
#include "csrc/hstu_attn/shared_memory.h"

namespace hstu {

cudaError_t shared_memory(const Problem& p, SharedMemory* out) {
  static std::atomic<int> known[kMaxDevices];
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  int bytes = device < kMaxDevices ? known[device].load() : 0;
  if (bytes == 0) {
    if (const cudaError_t e =
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device)) {
      return e;
    }
    if (device < kMaxDevices) known[device].store(bytes);
  }
  const int wanted = p.smem_kb * 1024;
  out->processor = wanted > 0 && wanted < bytes ? wanted : bytes;
  return cudaSuccess;
}

}  // namespace hstu
