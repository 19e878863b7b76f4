// File: passes_launch.cuh
//
// Launches of the passes over large batches, and of lookups.
#pragma once

#include "csrc/hkv/launch.cuh"
#include "csrc/hkv/lookup_kernel.cuh"
#include "csrc/hkv/passes.cuh"

namespace hkv {

void LaunchClaim(WriteMode mode, const device::View& view, const device::UpsertArgs& args,
                 const device::Plan& plan, unsigned blocks, cudaStream_t stream);
// Of a mode that inserts; the blocks run at the same time.
void LaunchEvict(WriteMode mode, const device::View& view, const device::UpsertArgs& args,
                 const device::Plan& plan, unsigned blocks, cudaStream_t stream);
void LaunchLookup(const device::View& view, const device::LookupArgs& args, unsigned blocks,
                  cudaStream_t stream);

#if !defined(HKV_KERNELS_APART)

HKV_KERNELS_INLINE void LaunchClaim(WriteMode mode, const device::View& view,
                                    const device::UpsertArgs& args, const device::Plan& plan,
                                    unsigned blocks, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, device::kThreads, 0, stream>>>(view, args, plan);
  };
  switch (mode) {
    case WriteMode::kInsertOrAssign:
      return launch(device::ClaimKernel<WriteMode::kInsertOrAssign>);
    case WriteMode::kInsertAndEvict:
      return launch(device::ClaimKernel<WriteMode::kInsertAndEvict>);
    case WriteMode::kFindOrInsert:
      return launch(device::ClaimKernel<WriteMode::kFindOrInsert>);
    case WriteMode::kAssign:
      return launch(device::ClaimKernel<WriteMode::kAssign>);
    default:
      return launch(device::ClaimKernel<WriteMode::kFindAndUpdate>);
  }
}

HKV_KERNELS_INLINE void LaunchEvict(WriteMode mode, const device::View& view,
                                    const device::UpsertArgs& args, const device::Plan& plan,
                                    unsigned blocks, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    LaunchTogether(kernel, blocks, stream, view, args, plan);
  };
  switch (mode) {
    case WriteMode::kInsertOrAssign:
      return launch(device::EvictKernel<WriteMode::kInsertOrAssign>);
    case WriteMode::kInsertAndEvict:
      return launch(device::EvictKernel<WriteMode::kInsertAndEvict>);
    default:
      return launch(device::EvictKernel<WriteMode::kFindOrInsert>);
  }
}

HKV_KERNELS_INLINE void LaunchLookup(const device::View& view, const device::LookupArgs& args,
                                     unsigned blocks, cudaStream_t stream) {
  const auto kernel =
      args.values != nullptr ? device::LookupKernel<true> : device::LookupKernel<false>;
  kernel<<<blocks, device::kThreads, 0, stream>>>(view, args);
}

#endif

}  // namespace hkv
