// File: launch.cuh
//
// Launches of the large kernels, which know no types of keys, values or strategies. A library of
// many tables defines HKV_KERNELS_APART where it compiles the tables, and compiles the kernels once
// (native_*.cu, with an empty HKV_KERNELS_INLINE); everybody else has them with the tables.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "csrc/common/cuda_memory.h"
#include "csrc/hkv/device.cuh"

#if !defined(HKV_KERNELS_INLINE)
#define HKV_KERNELS_INLINE inline
#endif

namespace hkv {

// A cooperative launch: the blocks run at the same time.
template <class... Arguments>
void LaunchTogether(void (*kernel)(Arguments...), unsigned blocks, cudaStream_t stream,
                    Arguments... arguments) {
  void* addresses[] = {const_cast<std::remove_const_t<Arguments>*>(&arguments)...};
  accel::CheckCuda(
      cudaLaunchCooperativeKernel(kernel, blocks, device::kThreads, addresses, 0, stream),
      "launching a kernel");
}

}  // namespace hkv
