// File: bwd_whole.cuh
//
// The backward of short sequences: a CUDA block takes a whole one, for one head of K and the query
// heads of its group, a block of keys after the other, the last one first. So nobody else adds to
// its dQ: there are no zeros, no atomics between blocks, no conversion, and the result is the same
// in every run.
//
// A warp owns 16 keys and does everything for them, with S, P, dP and dS in its registers; only dS
// goes through shared memory, once, for dQ. With one barrier per block of queries, few registers
// and little shared memory, several blocks share a multiprocessor and fill each other's waits. What
// is read or written once is marked so: the L2 cache is for Q, dO and the sums of dQ.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/bwd_tile.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/bwd_walk.cuh"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/tail.cuh"

namespace accel::hstu {

// Which blocks of queries see the keys at hand: a bit each, the same ones for every head. Every
// warp walks for itself.
template <int kBlockM, int kBlockN>
struct WholeWalk {
  static_assert(kBwdWholeKeys <= kMaskBits * kBlockM, "a bit each");
  uint32_t seen, partial;
  uint32_t kept;  // those whose dQ has a sum already
  uint32_t todo;  // what is left of `seen` for `head`
  int32_t head;   // < 0: the walk is over

  // Whole warp. With the first keys, which come last, every block counts: its dQ is written then.
  __device__ __forceinline__ void Start(const BwdParams& p, const BwdSequence& s, int n0) {
    const int lane = threadIdx.x % kWarpSize, k_len = s.mask.k_len;
    TileKind kind = TileKind::kEmpty;
    bool before = false;
    if (kWithArbitrary && p.mask.func != nullptr) {
      for (int i = 0; i * kBlockM < s.q_len; ++i) {
        const TileKind k =
            QueryFuncTile<kBlockM>(p.mask, s, i * kBlockM, n0, min(n0 + kBlockN, k_len));
        if (i == lane) kind = k == TileKind::kFull ? k : TileKind::kPartial;
      }
      before = n0 + kBlockN < k_len;
    } else if (lane * kBlockM < s.q_len) {
#pragma unroll 1
      for (int n = (k_len - 1) / kBlockN * kBlockN; n >= n0; n -= kBlockN) {
        before |= kind != TileKind::kEmpty;
        kind = QueryTile<kBlockM>(s, lane * kBlockM, n, min(n + kBlockN, k_len));
      }
      if (n0 == 0 && kind == TileKind::kEmpty) kind = TileKind::kPartial;
    }
    seen = __ballot_sync(kFullMask, kind != TileKind::kEmpty);
    partial = __ballot_sync(kFullMask, kind == TileKind::kPartial);
    kept = __ballot_sync(kFullMask, before);
    todo = seen;
    head = seen == 0 ? -1 : s.head;
  }

  __device__ __forceinline__ QueryBlock Next(const BwdSequence& s) {
    if (todo == 0 && head >= 0) {
      todo = seen;
      if (++head == s.head_end) head = -1;
    }
    const int bit = __ffs(todo) - 1;
    todo &= todo - 1;
    return {head, bit * kBlockM, 0, false};
  }

  __device__ __forceinline__ static bool Has(uint32_t bits, const QueryBlock& block) {
    return (bits >> (block.m0 / kBlockM) & 1) != 0;
  }
};

template <class Traits>
struct BwdWholeBlock {
  using Element = typename Traits::Element;
  using KvTile = typename Traits::KvTile;
  using QTile = typename Traits::QTile;
  using DsTile = typename Traits::DsTile;
  static constexpr int kThreads = Traits::kThreads;
  static constexpr int kWarps = Traits::kWarps;
  static constexpr int kBlockM = Traits::kBlockM;
  static constexpr int kBlockN = Traits::kBlockN;
  static constexpr int kTiles8 = Traits::kWarpD / 8;
  static_assert(Traits::kWarpRows == 16, "one MMA row");
  static_assert(sizeof(BwdSequence) <= Traits::kWalkBytes, "the sequence fits");

  using Scores = float[1][kBlockM / 8][4];      // C fragments of (kWarpRows, kBlockM)
  using Packed = uint32_t[1][kBlockM / 16][4];  // the same, rounded: A fragments
  using Sums = float[1][kTiles8][4];            // of dV or dK

  const BwdArgs& args;
  BwdSequence& own;
  const uint32_t base;  // of shared memory
  const int warp, lane;
  const int row0;  // of this warp's keys
  const int part;  // of the head dim
  int seq, head_k, k_begin, k_len;
  // This lane's addresses.
  const uint32_t own_k, at_nk, at_kn, to_ds;

  WholeWalk<kBlockM, kBlockN> walk;
  QueryBlock block = {}, next;

  __device__ __forceinline__ BwdWholeBlock(const BwdArgs& args, BwdSequence& own, uint32_t base)
      : args(args),
        own(own),
        base(base),
        warp(threadIdx.x / kWarpSize),
        lane(threadIdx.x % kWarpSize),
        row0(warp / Traits::kSplit * Traits::kWarpRows),
        part(warp % Traits::kSplit),
        own_k(base + KvTile::Offset(row0 + LaneMk(lane).row, LaneMk(lane).chunk)),
        at_nk(QTile::Offset(LaneNk(lane).row, LaneNk(lane).chunk)),
        at_kn(QTile::Offset(LaneKn(lane).row, LaneKn(lane).chunk) ^ (part * Traits::kWarpD * 2)),
        to_ds(base + Traits::kDsOffset + DsTile::Offset(row0 + lane / 4, 0) + lane % 4 * 4) {
    const BwdParams& p = args.p;
    const int item = blockIdx.x / p.heads_k;
    head_k = blockIdx.x % p.heads_k;
    seq = args.order != nullptr ? args.order[item] : item;
    k_begin = p.cu_seqlens_k[seq];
    k_len = p.cu_seqlens_k[seq + 1] - k_begin;
    if (threadIdx.x == 0) {
      own.q_begin = p.cu_seqlens_q[seq];
      own.q_len = p.cu_seqlens_q[seq + 1] - own.q_begin;
      own.off = k_len - own.q_len;
      own.mask = SequenceMask(p.mask, seq, k_len);
      own.seq = seq;
      own.head = head_k * (p.heads / p.heads_k);
      own.head_end = own.head + p.heads / p.heads_k;
    }
  }

  __device__ __forceinline__ void Run() {
    const BwdParams& p = args.p;
    int n0 = max(k_len - 1, 0) / kBlockN * kBlockN;  // first key
    RequestKeys(n0);
    __syncthreads();
    Begin(n0);
    for (;;) {
      if (threadIdx.x == 0) own.n0 = n0;
      Sums dv = {}, dk = {};
      for (int i = 0;; ++i) {
        CpAsyncWait<0>();
        __syncthreads();
        const QueryBlock previous = block;
        block = next;
        if (block.head >= 0) {
          next = walk.Next(own);
          RequestQueries(next, i + 1);
        }
        const uint32_t ds = (i & 1) * Traits::kDsBytes;
        if (i > 0) AddDq(previous, base + Traits::kDsOffset + (Traits::kDsBytes - ds));
        if (block.head < 0) break;
        Step(base + Traits::kQOffset + i % 2 * 2 * Traits::kQBytes, ds, dv, dk);
      }
      __syncthreads();
      if (n0 > 0) {  // the next keys are on their way while these are stored
        RequestKeys(n0 - kBlockN);
        Begin(n0 - kBlockN);
      }
      const float scale = p.inv_n / Traits::kScale;
      StoreKeys(p.dv, dv, scale, n0);
      StoreKeys(p.dk, dk, scale * 0.5f * p.alpha, n0);
      if (n0 == 0) break;
      n0 -= kBlockN;
      __syncthreads();
    }
  }

  __device__ __forceinline__ void RequestKeys(int n0) const {
    const auto load = [&](const Rows& rows, uint32_t to) {
      LoadRows<KvTile, kThreads, true>(to, RowAt<const Element>(rows, k_begin + n0, head_k),
                                       rows.row_stride, k_len - n0, threadIdx.x);
    };
    load(args.p.k, base);
    load(args.p.v, base + Traits::kVOffset);
  }

  // Issues the loads of query block number `n`: half of the warps load Q, the other half dO.
  __device__ __forceinline__ void RequestQueries(const QueryBlock& of, int n) const {
    if (of.head >= 0) {
      const int grad = warp / (kWarps / 2);
      const Rows& rows = grad ? args.p.d_o : args.p.q;
      LoadRows<QTile, kThreads / 2>(base + Traits::kQOffset + (n % 2 * 2 + grad) * Traits::kQBytes,
                                    RowAt<const Element>(rows, own.q_begin + of.m0, of.head),
                                    rows.row_stride, own.q_len - of.m0,
                                    threadIdx.x % (kThreads / 2));
    }
    CpAsyncCommit();
  }

  // Starts the walk over the queries that see the keys from n0 on.
  __device__ __forceinline__ void Begin(int n0) {
    walk.Start(args.p, own, n0);
    next = walk.Next(own);
    RequestQueries(next, 0);
  }

  // dQ of `of` += dS K: this warp's part.
  __device__ __forceinline__ void AddDq(const QueryBlock& of, uint32_t ds) const {
    const int slot =
        (FirstQueryBlock(seq, own.q_begin, kBlockM) + of.m0 / kBlockM) * args.p.heads + of.head;
#pragma unroll
    for (int pass = 0; pass < Traits::kDqPasses; ++pass) {
      DqPart<Traits> dq;
      dq.Product(args, own, of, slot, ds, base, pass);
      KeepDq(dq, of, walk.Has(walk.kept, of), pass);
    }
    __syncwarp();
  }

  // Adds this warp's part of a query block's dQ to the sum of the keys before, or, with the first
  // keys, writes dQ.
  __device__ __forceinline__ void KeepDq(DqPart<Traits>& dq, const QueryBlock& of, bool kept,
                                         int pass) const {
    const BwdParams& p = args.p;
    if (own.n0 > 0) {
      if (kept) {
        dq.Add();
      } else {
#pragma unroll
        for (int i = 0; i < Traits::kDqRegs; ++i) dq.out[i * kWarpSize] = dq.at(i);
      }
      return;
    }
    if (kept) {
#pragma unroll
      for (int i = 0; i < Traits::kDqRegs; ++i) dq.at(i) += __ldcg(dq.out + i * kWarpSize);
    }
    const int warp_m = warp / Traits::kDqWarpsD, warp_d = warp % Traits::kDqWarpsD;
    const int col0 = (warp_d * Traits::kDqPasses + pass) * Traits::kDqCols;
    const float scale = 0.5f * p.alpha * p.inv_n / Traits::kScale;
    Element* const rows = RowAt<Element>(p.dq, own.q_begin, of.head) + col0 + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < dq.kRows16; ++r) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        const int m = of.m0 + warp_m * Traits::kDqRows + r * 16 + low * 8 + lane / 4;
        if (m < own.q_len) {
#pragma unroll
          for (int t = 0; t < dq.kTiles8; ++t) {
            __stcs(reinterpret_cast<uint32_t*>(rows + m * p.dq.row_stride + t * 8),
                   Pack<Element>(dq.dq[r][t][low * 2] * scale, dq.dq[r][t][low * 2 + 1] * scale));
          }
        }
      }
    }
  }

  // dV += P^T dO, dK += dS^T Q, and dS into shared memory, of the block of queries at hand, whose Q
  // lies at `q` and whose dS at offset `ds`.
  __device__ __forceinline__ void Step(uint32_t q, uint32_t ds, Sums& dv, Sums& dk) const {
    const BwdParams& p = args.p;
    const uint32_t d_o = q + Traits::kQBytes;
    uint32_t word = ~0u;
    bool any = true, all = true;  // of the warp's pairs are seen
    if (walk.Has(walk.partial, block)) {
      constexpr uint32_t kRows = (1u << Traits::kWarpRows) - 1;
      word = QueryBits(p.mask, own, block.m0 + lane, own.n0 + row0);
      any = __any_sync(kFullMask, (word & kRows) != 0);
      all = __all_sync(kFullMask, (word & kRows) == kRows);
    }
    Packed grad = {};
    if (any) {
      Scores s = {}, dp = {};
      Packed probs;
      const uint32_t none[1][1][4] = {};
      if constexpr (Traits::kHasRab) {
        LoadRab<Element>(s, p.rab, own, block.head, block.m0, own.n0 + row0);
      }
      ProductNt<Element, QTile, false>(s, own_k, q + at_nk, none);
      ProductNt<Element, QTile, false>(dp, own_k + Traits::kKvBytes, d_o + at_nk, none);
      if (all) {
        SiluInPlace<false>(s, probs, word);
      } else {
        SiluInPlace<true>(s, probs, word);
      }
#pragma unroll
      for (int t = 0; t < kBlockM / 8; ++t) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          const float* const d = &s[0][t][low * 2];
          const float* const g = &dp[0][t][low * 2];
          grad[0][t / 2][t % 2 * 2 + low] =
              Pack<Element>(g[0] * Traits::kScale * d[0], g[1] * Traits::kScale * d[1]);
        }
      }
      ProductRn<Element, QTile>(dv, probs, d_o + at_kn);
    }
    if (part == 0) {
#pragma unroll
      for (int t = 0; t < kBlockM / 8; ++t) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          StoreShared(((to_ds + ds) ^ (t * kChunkBytes)) + low * 8 * DsTile::kPitch,
                      grad[0][t / 2][t % 2 * 2 + low]);
        }
      }
    }
    if (any) ProductRn<Element, QTile>(dk, grad, q + at_kn);
  }

  // S -> P as A fragments, and S becomes 2 dSiLU(S). `word`: if kPartial, which keys of this warp
  // query `lane` sees.
  template <bool kPartial>
  __device__ __forceinline__ void SiluInPlace(Scores& s, Packed& p, uint32_t word) const {
    const float half_alpha = 0.5f * args.p.alpha;
#pragma unroll
    for (int t = 0; t < kBlockM / 8; ++t) {
      uint32_t seen[2] = {};
      if constexpr (kPartial) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          seen[odd] = __shfl_sync(kFullMask, word, t * 8 + lane % 4 * 2 + odd) >> lane / 4;
        }
      }
      float silu[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float h = s[0][t][i] * half_alpha;
        if constexpr (kPartial) h = (seen[i % 2] >> (i / 2 * 8)) & 1 ? h : kHiddenHalf;
        const SiluAndSlope x = SiluAndSlopeOfHalf(h);
        s[0][t][i] = x.slope;
        silu[i] = x.silu * Traits::kScale;
      }
      p[0][t / 2][t % 2 * 2] = Pack<Element>(silu[0], silu[1]);
      p[0][t / 2][t % 2 * 2 + 1] = Pack<Element>(silu[2], silu[3]);
    }
  }

  __device__ __forceinline__ void StoreKeys(const Rows& rows, const Sums& sums, float scale,
                                            int n0) const {
    StoreRows<Traits, true>(sums, scale, base + Traits::kStagingOffset, row0, part * kTiles8,
                            RowAt<Element>(rows, k_begin + n0, head_k), rows.row_stride,
                            k_len - n0);
  }
};

template <class Traits>
__global__ __launch_bounds__(Traits::kThreads, Traits::kMinBlocks) void bwd_whole_kernel(
    const __grid_constant__ BwdArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t blocks = gridDim.x - args.tail_blocks;
  if (blockIdx.x >= blocks) {
    return ClearGradients(args.p, blockIdx.x - blocks, args.tail_blocks);
  }
  BwdSequence& own = *reinterpret_cast<BwdSequence*>(smem + Traits::kWalkOffset);
  BwdWholeBlock<Traits> block(args, own, SmemAddress(smem));
  block.Run();
}

}  // namespace accel::hstu
