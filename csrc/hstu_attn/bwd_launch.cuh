// File: bwd_launch.cuh
//
// Launches the backward of one instance: prepare (schedule, zeros), the kernel, dQ's conversion.
#pragma once

#include <type_traits>

#include "csrc/common/shared_memory.h"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/bwd.h"
#include "csrc/hstu_attn/bwd_kernel.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/bwd_whole.cuh"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/tail.cuh"

namespace accel::hstu {

inline BwdArgs MakeBwdArgs(const BwdParams& p, void* workspace) {
  const BwdWorkspace at = BwdWorkspaceOf(p);
  unsigned char* const base = static_cast<unsigned char*>(workspace);
  BwdArgs args;
  args.p = p;
  args.schedule = reinterpret_cast<const ScheduleHeader*>(base + at.schedule);
  args.semaphores = reinterpret_cast<int32_t*>(base + at.semaphores);
  args.order = nullptr;
  args.dq = reinterpret_cast<float*>(base + at.dq);
  args.split = {at.split, reinterpret_cast<uint32_t*>(base + at.arrived),
                reinterpret_cast<float*>(base + at.sums)};
  args.tail_blocks = TailBlocks(p);
  args.drab_by_pairs = reinterpret_cast<uintptr_t>(p.drab.data) % 4 == 0 &&
                       p.drab.batch_stride % 2 == 0 && p.drab.head_stride % 2 == 0 &&
                       p.drab.row_stride % 2 == 0;
  return args;
}

template <class Traits>
cudaError_t LaunchBwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr auto kKernel = bwd_kernel<Traits>;
  if (const cudaError_t e = AllowSharedMemory<kKernel>(Traits::kSmemBytes)) return e;
  if (const cudaError_t e = BwdZeroDrab(p, stream)) return e;
  if (const cudaError_t e = BwdPrepare(p, Traits::kBlockM, Traits::kBlockN, workspace, stream)) {
    return e;
  }
  BwdArgs args = MakeBwdArgs(p, workspace);
  // What the small tiles of sm_86 would split has other sizes.
  if (Traits::kBlockN != BwdKeys(Traits::kHeadDim)) args.split.split = Split{};
  const int64_t key_blocks = p.total_k / Traits::kBlockN + p.batch;
  const int64_t query_blocks = BwdQueryBlocks(p, Traits::kBlockM);
  if (p.total_k > 0) {
    kKernel<<<static_cast<uint32_t>(key_blocks * p.heads_k * args.split.split.most),
              Traits::kThreads, Traits::kSmemBytes, stream>>>(args);
  }
  bwd_convert_dq<Traits><<<static_cast<uint32_t>(query_blocks * p.heads + args.tail_blocks),
                           Traits::kDqWarps * kWarpSize, 0, stream>>>(args);
  return cudaGetLastError();
}

template <class Traits>
cudaError_t LaunchBwdWhole(const BwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr auto kKernel = bwd_whole_kernel<Traits>;
  if (const cudaError_t e = AllowSharedMemory<kKernel>(Traits::kSmemBytes)) return e;
  if (const cudaError_t e = BwdZeroDrab(p, stream)) return e;
  BwdArgs args = MakeBwdArgs(p, workspace);
  if (const cudaError_t e = BwdPrepareWhole(p, workspace, stream, &args.order)) return e;
  kKernel<<<static_cast<uint32_t>(p.batch) * p.heads_k + args.tail_blocks, Traits::kThreads,
            Traits::kSmemBytes, stream>>>(args);
  return cudaGetLastError();
}

template <class Traits>
int RunBwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  using Tiles = BwdTiles<Traits::kHeadDim>;
  using Medium = typename Traits::template With<typename Tiles::Medium>;
  using Small = typename Traits::template With<typename Tiles::Small>;
  using Whole = typename Traits::template With<typename Tiles::Whole>;
  static_assert(Traits::kBlockN == BwdKeys(Traits::kHeadDim), "what the workspace is made for");
  SharedMemory memory;
  if (const cudaError_t e = SharedMemoryOfDevice(p.smem_kb, &memory)) return e;
  const int limit = memory.Block();
  if (p.max_seqlen_k <= kBwdWholeKeys &&
      static_cast<int64_t>(p.batch) * p.heads_k >= kBwdWholeGrid && limit >= Whole::kSmemBytes) {
    return LaunchBwdWhole<Whole>(p, workspace, stream);
  }
  if (limit >= Traits::kSmemBytes) return LaunchBwd<Traits>(p, workspace, stream);
  if constexpr (!std::is_same_v<Medium, Traits>) {
    if (limit >= Medium::kSmemBytes) return LaunchBwd<Medium>(p, workspace, stream);
  }
  if constexpr (kWith86or89 && !std::is_same_v<Small, Medium>) {
    if (limit >= Small::kSmemBytes) return LaunchBwd<Small>(p, workspace, stream);
  }
  return cudaErrorNotSupported;
}

}  // namespace accel::hstu
