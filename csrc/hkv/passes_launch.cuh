// File: passes_launch.cuh
//
// Launches of the passes over large batches, and of lookups.
#pragma once

#include "csrc/hkv/evict.cuh"
#include "csrc/hkv/launch.cuh"
#include "csrc/hkv/lookup_kernel.cuh"

namespace hkv {

void LaunchClaim(WriteMode mode, const device::View& view, const device::UpsertArgs& args,
                 const device::Plan& plan, unsigned blocks, cudaStream_t stream);
// Of a mode that inserts, where KnowsLowest(args).
void LaunchEvictKnown(WriteMode mode, const device::View& view, const device::UpsertArgs& args,
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

HKV_KERNELS_INLINE void LaunchEvictKnown(WriteMode mode, const device::View& view,
                                         const device::UpsertArgs& args, const device::Plan& plan,
                                         unsigned blocks, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, device::kThreads, 0, stream>>>(view, args, plan);
  };
  switch (mode) {
    case WriteMode::kInsertOrAssign:
      return launch(device::EvictKnownKernel<WriteMode::kInsertOrAssign>);
    case WriteMode::kInsertAndEvict:
      return launch(device::EvictKnownKernel<WriteMode::kInsertAndEvict>);
    default:
      return launch(device::EvictKnownKernel<WriteMode::kFindOrInsert>);
  }
}

HKV_KERNELS_INLINE void LaunchEvict(WriteMode mode, const device::View& view,
                                    const device::UpsertArgs& args, const device::Plan& plan,
                                    unsigned blocks, cudaStream_t stream) {
  const auto launch = [&](auto with, auto without) {
    LaunchTogether(device::KnowsLowest(args) ? with : without, blocks, stream, view, args, plan);
  };
  switch (mode) {
    case WriteMode::kInsertOrAssign:
      return launch(device::EvictKernel<WriteMode::kInsertOrAssign, true>,
                    device::EvictKernel<WriteMode::kInsertOrAssign, false>);
    case WriteMode::kInsertAndEvict:
      return launch(device::EvictKernel<WriteMode::kInsertAndEvict, true>,
                    device::EvictKernel<WriteMode::kInsertAndEvict, false>);
    default:
      return launch(device::EvictKernel<WriteMode::kFindOrInsert, true>,
                    device::EvictKernel<WriteMode::kFindOrInsert, false>);
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
