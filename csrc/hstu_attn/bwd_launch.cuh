// File: bwd_launch.cuh
//
// Launches the backward of one instance: prepare (schedule, zeros), the kernel, dQ's conversion.
#pragma once

#include <atomic>
#include <type_traits>

#include "csrc/hstu_attn/bwd.h"
#include "csrc/hstu_attn/bwd_kernel.cuh"
#include "csrc/hstu_attn/bwd_traits.h"

namespace hstu {

// Allows the kernel its dynamic shared memory, once per device; legal during graph capture.
template <class Tile, class T, bool kHasRab, bool kHasDrab, bool kWhole>
cudaError_t bwd_allow_shared_memory() {
  constexpr int kMaxDevices = 64;
  static std::atomic<bool> allowed[kMaxDevices];
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (device < kMaxDevices && allowed[device].load()) return cudaSuccess;
  const auto kernel = bwd_kernel<Tile, T, kHasRab, kHasDrab, kWhole>;
  if (const cudaError_t e = cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSmemBytes)) {
    return e;
  }
  // Without this, fewer blocks may share a multiprocessor than would fit.
  if (const cudaError_t e = cudaFuncSetAttribute(
          kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared)) {
    return e;
  }
  if (device < kMaxDevices) allowed[device].store(true);
  return cudaSuccess;
}

// kWhole: a CUDA block takes all keys of a sequence.
template <class Tile, class T, bool kHasRab, bool kHasDrab, bool kWhole>
cudaError_t launch_bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  if (const cudaError_t e = bwd_allow_shared_memory<Tile, T, kHasRab, kHasDrab, kWhole>()) return e;
  if (const cudaError_t e =
          bwd_prepare(p, kWhole, Tile::kBlockM, Tile::kBlockN, workspace, stream)) {
    return e;
  }
  const BwdWorkspace at = bwd_workspace(p);
  unsigned char* const base = static_cast<unsigned char*>(workspace);
  BwdArgs args;
  args.p = p;
  args.schedule = reinterpret_cast<const ScheduleHeader*>(base + at.schedule);
  args.semaphores = reinterpret_cast<int32_t*>(base + at.semaphores);
  args.dq = reinterpret_cast<float*>(base + at.dq);
  args.drab_by_pairs = reinterpret_cast<uintptr_t>(p.drab.data) % 4 == 0 &&
                       p.drab.batch_stride % 2 == 0 && p.drab.head_stride % 2 == 0 &&
                       p.drab.row_stride % 2 == 0;
  const int64_t key_blocks = kWhole ? p.batch : p.total_k / Tile::kBlockN + p.batch;
  const int64_t query_blocks = bwd_query_blocks(p, Tile::kBlockM);
  if (p.total_k > 0 || kWhole) {
    bwd_kernel<Tile, T, kHasRab, kHasDrab, kWhole>
        <<<static_cast<uint32_t>(key_blocks * p.heads_k), Tile::kThreads, Tile::kSmemBytes,
           stream>>>(args);
  }
  if (p.total_q > 0 && !kWhole) {
    bwd_convert_dq<Tile, T>
        <<<static_cast<uint32_t>(query_blocks * p.heads), Tile::kDqWarps * 32, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

template <int kHeadDim, class T, bool kHasRab, bool kHasDrab>
int run_bwd(const BwdParams& p, void* workspace, cudaStream_t stream) {
  using Tiles = BwdTiles<kHeadDim>;
  int limit = 0;
  if (const cudaError_t e = bwd_shared_memory_limit(&limit)) return e;
  if (p.max_seqlen_k <= kBwdWholeKeys &&
      static_cast<int64_t>(p.batch) * p.heads_k >= kBwdWholeGrid &&
      limit >= Tiles::Short::kSmemBytes) {
    return launch_bwd<typename Tiles::Short, T, kHasRab, kHasDrab, true>(p, workspace, stream);
  }
  if (limit >= Tiles::Large::kSmemBytes) {
    return launch_bwd<typename Tiles::Large, T, kHasRab, kHasDrab, false>(p, workspace, stream);
  }
  if constexpr (!std::is_same_v<typename Tiles::Medium, typename Tiles::Large>) {
    if (limit >= Tiles::Medium::kSmemBytes) {
      return launch_bwd<typename Tiles::Medium, T, kHasRab, kHasDrab, false>(p, workspace, stream);
    }
  }
  if constexpr (kWith86Or89 && !std::is_same_v<typename Tiles::Small, typename Tiles::Medium>) {
    if (limit >= Tiles::Small::kSmemBytes) {
      return launch_bwd<typename Tiles::Small, T, kHasRab, kHasDrab, false>(p, workspace, stream);
    }
  }
  return cudaErrorNotSupported;
}

}  // namespace hstu
