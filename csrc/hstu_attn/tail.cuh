// File: tail.cuh
//
// Rows behind the last sequence belong to nobody: they become zeros, so that a buffer that is
// longer than what it holds (CUDA graphs, padding) has no garbage in outputs and gradients. Only
// the device knows where the last sequence ends; some blocks at the end of a grid look, and clear
// what there is.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/hstu.h"

namespace accel::hstu {

// How many blocks: one for each 64 KB that there could be, at most 32, which write as fast as
// device memory takes it.
inline int TailBlocks(const Problem& p) {
  constexpr int64_t kBytes = 64 << 10, kMost = 32;
  const int64_t rows = Max(p.total_q, p.total_k);
  return static_cast<int>(Max(int64_t{1}, Min(rows * p.heads * p.head_dim * 2 / kBytes, kMost)));
}

// Writes zeros into rows [begin, end); called by block `block` of `blocks`.
__device__ __forceinline__ void ClearRows(const Rows& rows, int begin, int end, int heads,
                                          int head_dim, int block, int blocks) {
  if (begin >= end) return;
  const int chunks = head_dim / kChunkElems, row_chunks = heads * chunks;
  const int first = block * blockDim.x + threadIdx.x, step = blocks * blockDim.x;
  int64_t row = begin + first / row_chunks;
  int at = first % row_chunks;
  while (row < end) {
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(rows.data) + row * rows.row_stride +
                              at / chunks * rows.head_stride + at % chunks * kChunkElems) =
        make_uint4(0, 0, 0, 0);
    row += step / row_chunks;
    at += step % row_chunks;
    if (at >= row_chunks) {
      at -= row_chunks;
      ++row;
    }
  }
}

// The same for the gradients of q, k and v.
__device__ __forceinline__ void ClearGradients(const BwdParams& p, int block, int blocks) {
  const int end_q = p.cu_seqlens_q[p.batch], end_k = p.cu_seqlens_k[p.batch];
  ClearRows(p.dq, end_q, p.total_q, p.heads, p.head_dim, block, blocks);
  ClearRows(p.dk, end_k, p.total_k, p.heads_k, p.head_dim, block, blocks);
  ClearRows(p.dv, end_k, p.total_k, p.heads_k, p.head_dim, block, blocks);
}

}  // namespace accel::hstu
