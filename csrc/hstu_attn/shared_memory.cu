// File: shared_memory.cu
//
// The host's part of shared_memory.h.
#include "csrc/hstu_attn/shared_memory.h"

namespace hstu {

cudaError_t shared_memory(const Problem& p, SharedMemory* out) {
  int bytes = 0;
  if (const cudaError_t e = device_attribute<cudaDevAttrMaxSharedMemoryPerMultiprocessor>(&bytes)) {
    return e;
  }
  const int wanted = p.smem_kb * 1024;
  out->processor = wanted > 0 && wanted < bytes ? wanted : bytes;
  return cudaSuccess;
}

}  // namespace hstu
