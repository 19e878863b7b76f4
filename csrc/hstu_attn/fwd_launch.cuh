// File: fwd_launch.cuh
//
// Launches one forward instance; included by the generated translation units (fwd_inst.cu.tpl).
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/fwd_kernel.cuh"

namespace hstu {

inline bool copies_by_chunk(const Rab& r) {
  return reinterpret_cast<uintptr_t>(r.data) % kChunkBytes == 0 &&
         r.batch_stride % kChunkElems == 0 && r.head_stride % kChunkElems == 0 &&
         r.row_stride % kChunkElems == 0;
}

// Lets the kernel have `bytes` of shared memory, once per device; legal during graph capture.
template <class Traits>
int prepare_fwd(int bytes) {
  static std::atomic<uint64_t> done{0};  // a bit per device
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  const uint64_t bit = uint64_t{1} << (device % 64);
  if (done.load() & bit) return cudaSuccess;
  if (const cudaError_t e = cudaFuncSetAttribute(
          fwd_kernel<Traits>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      e != cudaSuccess) {
    return e;
  }
  if (const cudaError_t e =
          cudaFuncSetAttribute(fwd_kernel<Traits>, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
      e != cudaSuccess) {
    return e;
  }
  done.fetch_or(bit);
  return cudaSuccess;
}

template <class Traits>
int run_fwd(const FwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr int kSmemBytes = Traits::kControlOffset + sizeof(FwdControl);
  static_assert(Traits::kWarps <= kMaxWarps, "FwdControl has a walk per warp");
  static_assert(!kWith86Or89 || kSmemBytes <= 99 * 1024, "a block may have no more on sm_86, sm_89");
  if (const int e = prepare_fwd<Traits>(kSmemBytes); e != cudaSuccess) return e;
  FwdArgs args;
  args.p = p;
  args.half_alpha = 0.5f * p.alpha;
  args.rab_aligned = copies_by_chunk(p.rab);
  const int64_t blocks =
      make_schedule(p, Traits::kBlockM, workspace, stream, &args.schedule);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  fwd_kernel<Traits><<<static_cast<unsigned>(blocks), Traits::kThreads, kSmemBytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace hstu
