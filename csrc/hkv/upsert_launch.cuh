// File: upsert_launch.cuh
//
// Launches of UpsertKernel.
#pragma once

#include "csrc/hkv/launch.cuh"
#include "csrc/hkv/upsert_kernel.cuh"

namespace hkv {

template <WriteMode kMode, class Value>
void LaunchUpsertKernel(const device::View& view, const device::UpsertArgs& args,
                        const device::Equals& equals, unsigned blocks, bool together,
                        cudaStream_t stream) {
  const auto kernel = device::UpsertKernel<kMode, Value>;
  if (together) {
    LaunchTogether(kernel, blocks, stream, view, args, equals);
  } else {
    kernel<<<blocks, device::kThreads, 0, stream>>>(view, args, equals);
  }
}

// Of every mode but kAccumOrAssign. `together`: its blocks run at the same time.
void LaunchUpsert(WriteMode mode, const device::View& view, const device::UpsertArgs& args,
                  const device::Equals& equals, unsigned blocks, bool together,
                  cudaStream_t stream);

#if !defined(HKV_KERNELS_APART)

HKV_KERNELS_INLINE void LaunchUpsert(WriteMode mode, const device::View& view,
                                     const device::UpsertArgs& args, const device::Equals& equals,
                                     unsigned blocks, bool together, cudaStream_t stream) {
  const auto launch = [&](auto launch_mode) {
    launch_mode(view, args, equals, blocks, together, stream);
  };
  switch (mode) {
    case WriteMode::kInsertOrAssign:
      return launch(LaunchUpsertKernel<WriteMode::kInsertOrAssign, char>);
    case WriteMode::kInsertAndEvict:
      return launch(LaunchUpsertKernel<WriteMode::kInsertAndEvict, char>);
    case WriteMode::kFindOrInsert:
      return launch(LaunchUpsertKernel<WriteMode::kFindOrInsert, char>);
    case WriteMode::kAssign:
      return launch(LaunchUpsertKernel<WriteMode::kAssign, char>);
    default:
      return launch(LaunchUpsertKernel<WriteMode::kFindAndUpdate, char>);
  }
}

#endif

}  // namespace hkv
