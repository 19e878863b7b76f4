// File: split.cu
//
// The host's part of split.cuh.
#include "csrc/hstu_attn/split.cuh"

namespace hstu {

int processor_count() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const cudaError_t e = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return e == cudaSuccess ? count : 0;
}

}  // namespace hstu
