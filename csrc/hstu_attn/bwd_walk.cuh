// File: bwd_walk.cuh
//
// Which blocks of queries a CUDA block of the backward kernel visits, in which order, and whose
// turn it is to add to a block of dQ where sums have an order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"

namespace accel::hstu {

struct BwdArgs {
  BwdParams p;
  const ScheduleHeader* schedule;
  int32_t* semaphores;   // [0]: ticket
  const int32_t* order;  // kernel for whole sequences: the longest first; null: as they come
  float* dq;
  SplitSums split;
  int32_t tail_blocks;  // the last ones of the last grid (tail.cuh)
  bool drab_by_pairs;   // two neighbours of drab may be written as one 32-bit word
};

// The dQ accumulator block of a sequence's first rows; no two sequences share a block.
__device__ __forceinline__ int32_t FirstQueryBlock(int32_t seq, int32_t row, int block_m) {
  return row / block_m + seq;
}

// One block of queries on the walk.
struct QueryBlock {
  int32_t head;   // query head; < 0: the walk is over
  int32_t m0;     // first row within the sequence
  int32_t valid;  // rows from m0 to the end of the sequence
  bool partial;   // the mask hides some of the pairs
};

// The sequence and the keys at hand, in shared memory to spare registers.
struct BwdSequence {
  SeqMask mask;
  int32_t seq, q_begin, q_len, off, k_begin, head_k;
  int32_t n0, n1;
  int32_t head, head_end;  // the next query head, the end of the group
};

// And how far the walk has come.
struct BwdWalk : BwdSequence {
  static constexpr int kRing = 4;  // query blocks that may be asked about

  int32_t base;  // `todo` and `partial` are about 32 query blocks from here on
  uint32_t todo, partial;
  int32_t m_begin, m_end;  // the rows of this part
  int32_t part, parts;
  uint32_t arrived;  // parts that ended before this one
  QueryBlock ring[kRing];

  __device__ __forceinline__ QueryBlock& at(int i) { return ring[i & (kRing - 1)]; }
};

// How kBlockM query rows from m0 on stand to the columns [n0, n1) of a structured mask.
template <int kBlockM>
__device__ __forceinline__ TileKind QueryTile(const BwdSequence& w, int m0, int n0, int n1) {
  return w.mask.tile(m0 + w.off, min(m0 + kBlockM, w.q_len) + w.off, n0, n1);
}

// The same under `func`. Whole warp.
template <int kBlockM>
__device__ __forceinline__ TileKind QueryFuncTile(const MaskParams& p, const BwdSequence& w, int m0,
                                                  int n0, int n1) {
  return FuncTile(p, w.q_begin + m0, min(kBlockM, w.q_len - m0), n0, n1);
}

// Which of the columns n0..n0+31 query row m sees.
__device__ __forceinline__ uint32_t QueryBits(const MaskParams& p, const BwdSequence& w, int m,
                                              int n0) {
  const bool exists = m < w.q_len;
  const RowSpan span = exists ? w.mask.row(m + w.off) : RowSpan{0, 0, 0, 0};
  return VisibleBits(p, w.mask, span, exists, w.q_begin + m, n0);
}

// Moves the walk one query block on and stores it as number `i`. Called by one whole warp.
// `ordered`: dQ's sums have an order.
template <int kBlockM>
__device__ __forceinline__ void Advance(const BwdParams& p, bool ordered, BwdWalk& w, int i) {
  const int lane = threadIdx.x % kWarpSize;
  int head = w.head, base = w.base;
  uint32_t todo = w.todo, partial = w.partial;
  __syncwarp();
  while (todo == 0) {
    base += kWarpSize * kBlockM;
    if (base >= w.m_end) {
      if (++head >= w.head_end) {
        if (lane == 0) w.at(i).head = -1;
        return;
      }
      base = w.m_begin;
    }
    TileKind kind = TileKind::kEmpty;
    if (kWithArbitrary && p.mask.func != nullptr) {
      for (int l = 0; l < kWarpSize && base + l * kBlockM < w.m_end; ++l) {
        TileKind k = QueryFuncTile<kBlockM>(p.mask, w, base + l * kBlockM, w.n0, w.n1);
        // The order of sums counts every key block.
        if (ordered && k == TileKind::kEmpty) k = TileKind::kPartial;
        if (l == lane) kind = k;
      }
    } else {
      const int m0 = base + lane * kBlockM;
      if (m0 < w.m_end) kind = QueryTile<kBlockM>(w, m0, w.n0, w.n1);
    }
    todo = __ballot_sync(kFullMask, kind != TileKind::kEmpty);
    partial = __ballot_sync(kFullMask, kind == TileKind::kPartial);
  }
  const int bit = __ffs(todo) - 1;
  todo &= todo - 1;
  if (lane == 0) {
    const int m0 = base + bit * kBlockM;
    w.at(i) = {head, m0, w.q_len - m0, (partial >> bit & 1) != 0};
    w.head = head;
    w.base = base;
    w.todo = todo;
    w.partial = partial;
  }
}

// How many key blocks after this one see the query block: they add to dQ first. Whole warp.
template <int kBlockM, int kBlockN>
__device__ __forceinline__ int DqTurn(const BwdParams& p, const BwdSequence& w, int m0) {
  const int blocks = CeilDiv(w.mask.k_len, kBlockN);
  const int mine = w.n0 / kBlockN;
  if (kWithArbitrary && p.mask.func != nullptr) return blocks - 1 - mine;
  int turn = 0;
  for (int first = mine + 1; first < blocks; first += kWarpSize) {
    const int n0 = (first + static_cast<int>(threadIdx.x % kWarpSize)) * kBlockN;
    const bool sees =
        n0 < w.mask.k_len &&
        QueryTile<kBlockM>(w, m0, n0, min(n0 + kBlockN, w.mask.k_len)) != TileKind::kEmpty;
    turn += __popc(__ballot_sync(kFullMask, sees));
  }
  return turn;
}

}  // namespace accel::hstu
