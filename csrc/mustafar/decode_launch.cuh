// File: decode_launch.cuh
//
// A launch of the decode kernel.
#pragma once

#include "csrc/common/shared_memory.h"
#include "csrc/mustafar/decode_kernel.cuh"

namespace accel::mustafar {

template <class T, int D>
cudaError_t LaunchDecode(const DecodeParams& p, const DecodePlan& plan, float* partial,
                         float2* maxima, cudaStream_t stream) {
  SharedMemory memory;
  if (const cudaError_t e = SharedMemoryOfDevice(0, &memory)) return e;
  const int bytes = plan.warp_bytes * kDecodeWarps;
  if (const cudaError_t e = AllowSharedMemory<decode_kernel<T, D>>(memory.Block())) return e;
  const int passes = CeilDiv(p.q_heads / p.cache.heads, kHeadsPerPass);
  const dim3 grid(p.cache.batch * p.cache.heads * passes, p.splits);
  decode_kernel<T, D><<<grid, kDecodeThreads, bytes, stream>>>(p, plan, partial, maxima);
  return cudaGetLastError();
}

}  // namespace accel::mustafar
