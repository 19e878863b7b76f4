// File: split.cu
//
// The host's part of split.cuh.
#include "csrc/hstu_attn/device.h"
#include "csrc/hstu_attn/split.cuh"

namespace hstu {

int processor_count() {
  int count = 0;
  const cudaError_t e = device_attribute<cudaDevAttrMultiProcessorCount>(&count);
  return e == cudaSuccess ? count : 0;
}

}  // namespace hstu
