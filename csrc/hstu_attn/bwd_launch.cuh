// File: bwd_launch.cuh
//
// Launches the backward of one instance: prepare (schedule, zeros), the kernel, dQ's conversion.
#pragma once

#include <type_traits>

#include "csrc/common/shared_memory.h"
#include "csrc/hstu_attn/bwd.h"
#include "csrc/hstu_attn/bwd_kernel.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/bwd_whole.cuh"

namespace accel::hstu {

inline BwdArgs bwd_args(const BwdParams& p, void* workspace) {
  const BwdWorkspace at = bwd_workspace(p);
  unsigned char* const base = static_cast<unsigned char*>(workspace);
  BwdArgs args;
  args.p = p;
  args.schedule = reinterpret_cast<const ScheduleHeader*>(base + at.schedule);
  args.semaphores = reinterpret_cast<int32_t*>(base + at.semaphores);
  args.order = nullptr;
  args.dq = reinterpret_cast<float*>(base + at.dq);
  args.split = {at.split, reinterpret_cast<uint32_t*>(base + at.arrived),
                reinterpret_cast<float*>(base + at.sums)};
  args.drab_by_pairs = reinterpret_cast<uintptr_t>(p.drab.data) % 4 == 0 &&
                       p.drab.batch_stride % 2 == 0 && p.drab.head_stride % 2 == 0 &&
                       p.drab.row_stride % 2 == 0;
  return args;
}

template <class Tile, class T, bool kHasRab, bool kHasDrab>
cudaError_t launch_bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr auto kKernel = bwd_kernel<Tile, T, kHasRab, kHasDrab>;
  if (const cudaError_t e = AllowSharedMemory<kKernel>(Tile::kSmemBytes)) return e;
  if (const cudaError_t e = bwd_zero_drab(p, stream)) return e;
  if (const cudaError_t e = bwd_prepare(p, Tile::kBlockM, Tile::kBlockN, workspace, stream)) {
    return e;
  }
  BwdArgs args = bwd_args(p, workspace);
  // What the small tiles of sm_86 would split has other sizes.
  if (Tile::kBlockN != bwd_keys(Tile::kHeadDim)) args.split.split = Split{};
  const int64_t key_blocks = p.total_k / Tile::kBlockN + p.batch;
  const int64_t query_blocks = bwd_query_blocks(p, Tile::kBlockM);
  if (p.total_k > 0) {
    kKernel<<<static_cast<uint32_t>(key_blocks * p.heads_k * args.split.split.most), Tile::kThreads,
              Tile::kSmemBytes, stream>>>(args);
  }
  if (p.total_q > 0) {
    bwd_convert_dq<Tile, T>
        <<<static_cast<uint32_t>(query_blocks * p.heads), Tile::kDqWarps * 32, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

template <class Tile, class T, bool kHasRab, bool kHasDrab>
cudaError_t launch_bwd_whole(const BwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr auto kKernel = bwd_whole_kernel<Tile, T, kHasRab, kHasDrab>;
  if (const cudaError_t e = AllowSharedMemory<kKernel>(Tile::kSmemBytes)) return e;
  if (const cudaError_t e = bwd_zero_drab(p, stream)) return e;
  BwdArgs args = bwd_args(p, workspace);
  if (const cudaError_t e = bwd_prepare_whole(p, workspace, stream, &args.order)) return e;
  kKernel<<<static_cast<uint32_t>(p.batch) * p.heads_k, Tile::kThreads, Tile::kSmemBytes, stream>>>(
      args);
  return cudaGetLastError();
}

template <int kHeadDim, class T, bool kHasRab, bool kHasDrab>
int run_bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  using Tiles = BwdTiles<kHeadDim>;
  static_assert(Tiles::Large::kBlockN == bwd_keys(kHeadDim), "what the workspace is made for");
  SharedMemory memory;
  if (const cudaError_t e = SharedMemoryOfDevice(p.smem_kb, &memory)) return e;
  const int limit = memory.Block();
  if (p.max_seqlen_k <= kBwdWholeKeys &&
      static_cast<int64_t>(p.batch) * p.heads_k >= kBwdWholeGrid &&
      limit >= Tiles::Whole::kSmemBytes) {
    return launch_bwd_whole<typename Tiles::Whole, T, kHasRab, kHasDrab>(p, workspace, stream);
  }
  if (limit >= Tiles::Large::kSmemBytes) {
    return launch_bwd<typename Tiles::Large, T, kHasRab, kHasDrab>(p, workspace, stream);
  }
  if constexpr (!std::is_same_v<typename Tiles::Medium, typename Tiles::Large>) {
    if (limit >= Tiles::Medium::kSmemBytes) {
      return launch_bwd<typename Tiles::Medium, T, kHasRab, kHasDrab>(p, workspace, stream);
    }
  }
  if constexpr (kWith86Or89 && !std::is_same_v<typename Tiles::Small, typename Tiles::Medium>) {
    if (limit >= Tiles::Small::kSmemBytes) {
      return launch_bwd<typename Tiles::Small, T, kHasRab, kHasDrab>(p, workspace, stream);
    }
  }
  return cudaErrorNotSupported;
}

}  // namespace accel::hstu
