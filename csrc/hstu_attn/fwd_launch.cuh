// File: fwd_launch.cuh
//
// Launches one forward instance; included by the generated translation units (fwd_inst.cu.tpl).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/shared_memory.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/fwd.h"
#include "csrc/hstu_attn/fwd_kernel.cuh"
#include "csrc/hstu_attn/fwd_short.cuh"

namespace accel::hstu {

inline bool CopiesByChunk(const Rab& r) {
  return reinterpret_cast<uintptr_t>(r.data) % kChunkBytes == 0 &&
         r.batch_stride % kChunkElems == 0 && r.head_stride % kChunkElems == 0 &&
         r.row_stride % kChunkElems == 0;
}

template <class Traits>
constexpr int SmemBytes() {
  static_assert(Traits::kWarps <= kMaxWarps, "FwdControl has a list per warp");
  return Traits::kControlOffset +
         static_cast<int>(sizeof(FwdControl) - (kMaxWarps - Traits::kWarps) * sizeof(TileList));
}

// Whether more blocks of the narrow tile run at a time than of the other one.
template <class Traits, class Narrow>
constexpr bool PrefersNarrow(const SharedMemory& memory) {
  return memory.Blocks(SmemBytes<Narrow>(), Narrow::kMinBlocks) >
         memory.Blocks(SmemBytes<Traits>(), Traits::kMinBlocks);
}

template <class Traits, bool kGeneral>
int LaunchFwd(const FwdArgs& args, int64_t blocks, cudaStream_t stream) {
  constexpr auto kKernel = fwd_kernel<Traits, kGeneral>;
  constexpr int kBytes = SmemBytes<Traits>();
  if (const cudaError_t e = AllowSharedMemory<kKernel>(kBytes)) return e;
  kKernel<<<static_cast<unsigned>(blocks + args.tail_blocks), Traits::kThreads, kBytes, stream>>>(
      args);
  return cudaGetLastError();
}

template <class Traits>
int RunTile(const FwdParams& p, void* workspace, cudaStream_t stream) {
  FwdArgs args;
  args.p = p;
  args.half_alpha = 0.5f * p.alpha;
  args.rab_aligned = CopiesByChunk(p.rab);
  static_assert(Traits::kBlockM == kFwdRows, "what the workspace is made for");
  const FwdWorkspace at = FwdWorkspaceOf(p);
  char* const base = static_cast<char*>(workspace);
  args.split = {at.split, reinterpret_cast<uint32_t*>(base + at.arrived),
                reinterpret_cast<float*>(base + at.sums)};
  const bool split = at.split.most > 1;
  if (split) {
    const cudaError_t e = cudaMemsetAsync(base + at.arrived, 0, at.sums - at.arrived, stream);
    if (e != cudaSuccess) return e;
  }
  const int64_t blocks = at.split.most * MakeSchedule(p, kFwdRows, split ? 0 : Traits::kContextRows,
                                                      base + at.schedule, stream, &args.schedule);
  args.tail_blocks = TailBlocks(p);
  if (blocks + args.tail_blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  const bool general = p.mask.func != nullptr || p.kv.data != nullptr || !args.rab_aligned;
  return general ? LaunchFwd<Traits, true>(args, blocks, stream)
                 : LaunchFwd<Traits, false>(args, blocks, stream);
}

// The tail of its grid, which has a row of blocks for each sequence.
inline int ShortTail(const FwdParams& p) { return CeilDiv(TailBlocks(p), p.heads); }

template <class Traits>
int RunShort(const FwdParams& p, int rows, cudaStream_t stream) {
  constexpr int kRowBytes = 3 * 2 * Traits::kHeadDim;
  constexpr int kMostBytes = FwdShort<Traits::kHeadDim>::kRows * kRowBytes;
  static_assert(kMostBytes <= kSm86Memory.Block(), "runs everywhere");
  constexpr auto kKernel = fwd_short_kernel<Traits>;
  if (const cudaError_t e = AllowSharedMemory<kKernel>(kMostBytes)) return e;
  ShortArgs args;
  args.p = p;
  args.half_alpha = 0.5f * p.alpha;
  args.group = p.heads / p.heads_k;
  args.rows = rows;
  kKernel<<<dim3(p.heads, p.batch + ShortTail(p)), Traits::kThreads, rows * kRowBytes, stream>>>(
      args);
  return cudaGetLastError();
}

template <class Traits>
int RunFwd(const FwdParams& p, void* workspace, cudaStream_t stream) {
  constexpr int64_t kMostRowStride = 1 << 24;  // a pass of the copies adds 64 rows in 32 bits
  if (p.q.row_stride > kMostRowStride || p.k.row_stride > kMostRowStride ||
      p.v.row_stride > kMostRowStride) {
    return cudaErrorInvalidValue;
  }
  using Element = typename Traits::Element;
  using Short = FwdShort<Traits::kHeadDim>;
  if constexpr (!Traits::kHasRab && Short::kRows > 0) {
    constexpr int kMostGridY = 65535;
    const int longest = p.max_seqlen_q > p.max_seqlen_k ? p.max_seqlen_q : p.max_seqlen_k;
    if (longest <= Short::kRows && p.batch + ShortTail(p) <= kMostGridY && p.mask.func == nullptr &&
        p.kv.data == nullptr) {
      const int rows = (longest + 31) / 32 * 32;
      return rows <= Short::kRows / 2
                 ? RunShort<FwdTraits<Element, Traits::kHeadDim, false, typename Short::Half>>(
                       p, rows, stream)
                 : RunShort<FwdTraits<Element, Traits::kHeadDim, false, typename Short::Whole>>(
                       p, rows, stream);
    }
  }
  using Narrow = FwdTraits<Element, Traits::kHeadDim, Traits::kHasRab,
                           typename FwdNarrowTileFor<Traits::kHeadDim, Traits::kHasRab>::Tile>;
  static_assert(SmemBytes<Traits>() <= kSm80Memory.Block(), "runs on sm_80");
  static_assert(!kWith86or89 || SmemBytes<Narrow>() <= kSm86Memory.Block(), "runs everywhere");
  if constexpr (PrefersNarrow<Traits, Narrow>(kSm80Memory) ||
                (kWith86or89 && PrefersNarrow<Traits, Narrow>(kSm86Memory))) {
    SharedMemory memory;
    if (const cudaError_t e = SharedMemoryOfDevice(p.smem_kb, &memory); e != cudaSuccess) return e;
    if (PrefersNarrow<Traits, Narrow>(memory)) return RunTile<Narrow>(p, workspace, stream);
  }
  return RunTile<Traits>(p, workspace, stream);
}

}  // namespace accel::hstu
