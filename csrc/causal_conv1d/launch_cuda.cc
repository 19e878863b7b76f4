// File: launch_cuda.cc
//
// Launches by the CUDA runtime.

#include <cuda_runtime.h>

#include "csrc/causal_conv1d/launch.h"

namespace accel::conv1d {

int LaunchCuda(const Entry& entry, int64_t blocks, const void* args, void* stream) {
  void* const arguments[] = {const_cast<void*>(args)};
  return cudaLaunchKernel(entry.function, dim3(static_cast<unsigned>(blocks)),
                          dim3(static_cast<unsigned>(entry.threads)), const_cast<void**>(arguments),
                          0, static_cast<cudaStream_t>(stream));
}

}  // namespace accel::conv1d
