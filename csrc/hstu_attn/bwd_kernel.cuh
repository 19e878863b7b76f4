// File: bwd_kernel.cuh
//
// The backward kernel. A CUDA block owns kBlockN keys of one sequence and one head of K, and walks
// over the blocks of queries that see any of them, for every query head of the group. Products are
// formed transposed, keys x queries, so that P and dS leave the tensor core as the A fragments that
// dV and dK need: only dS goes through shared memory, once, for dQ.
//
// A pair of warps owns kWarpRows keys; its two warps run side by side, so that one warp's SiLU
// hides behind the other one's products:
//
//   value warp   S = K Q^T ; P, dSiLU(S) -------------> dV += P^T dO
//   key warp     dQ(previous) += dS K ; dP = V dO^T ; dS = dP * dSiLU(S) ; dK += dS^T Q
//
// (without kKeyDq the value warps take their share of dQ at their end.)
//
// One barrier per block of queries: it publishes the loads (issued one block earlier) and dS of the
// previous block, whose dQ is computed one block later. dQ is added to an fp32 accumulator in
// global memory, laid out as the registers are (coalesced), and converted by a last kernel. Batches
// of short sequences have a kernel of their own (bwd_whole.cuh).
//
//   t = tanh(S/2)   P = SiLU(S) = S/2 (1 + t)   2 dSiLU(S) = (1 + t) + P (1 - t)
//
// The factors 1/N, alpha and 1/2 are applied to the finished sums. fp16 operands are scaled by
// 1/16 on the way so that P and dP up to 1e6 stay finite.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/bwd_tile.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/bwd_walk.cuh"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"
#include "csrc/hstu_attn/tail.cuh"

namespace accel::hstu {

// Named barriers 1.. of a CUDA block; 0 is __syncthreads. The ids are immediates, since a kernel
// that names a barrier by a register reserves all sixteen and fewer blocks fit on a multiprocessor.
template <int kId, bool kWait>
__device__ __forceinline__ void PairBarrier() {
  if constexpr (kWait) {
    asm volatile("bar.sync %0, 64;\n" ::"n"(kId) : "memory");
  } else {
    asm volatile("bar.arrive %0, 64;\n" ::"n"(kId) : "memory");
  }
}

// Barrier kFirst + `index` of two warps; index < kCount <= 8. `kAlone`: one block a multiprocessor.
template <bool kAlone, int kFirst, int kCount, bool kWait>
__device__ __forceinline__ void PairBarrier(int index) {
  if constexpr (kAlone) {
    if constexpr (kWait) {
      asm volatile("bar.sync %0, 64;\n" ::"r"(kFirst + index) : "memory");
    } else {
      asm volatile("bar.arrive %0, 64;\n" ::"r"(kFirst + index) : "memory");
    }
    return;
  }
  static_assert(kFirst > 0 && kCount <= 8 && kFirst + kCount <= 16, "sixteen barriers");
  switch (index) {
    case 0:
      return PairBarrier<kFirst, kWait>();
    case 1:
      return PairBarrier<kFirst + (1 < kCount ? 1 : 0), kWait>();
    case 2:
      return PairBarrier<kFirst + (2 < kCount ? 2 : 0), kWait>();
    case 3:
      return PairBarrier<kFirst + (3 < kCount ? 3 : 0), kWait>();
    case 4:
      return PairBarrier<kFirst + (4 < kCount ? 4 : 0), kWait>();
    case 5:
      return PairBarrier<kFirst + (5 < kCount ? 5 : 0), kWait>();
    case 6:
      return PairBarrier<kFirst + (6 < kCount ? 6 : 0), kWait>();
    default:
      return PairBarrier<kFirst + (7 < kCount ? 7 : 0), kWait>();
  }
}

__device__ __forceinline__ int32_t LoadAcquire(const int32_t* at) {
  int32_t v;
  asm volatile("ld.global.acquire.gpu.s32 %0, [%1];\n" : "=r"(v) : "l"(at) : "memory");
  return v;
}

template <class Traits>
struct BwdBlock {
  using Element = typename Traits::Element;
  using KvTile = typename Traits::KvTile;
  using QTile = typename Traits::QTile;
  using DsTile = typename Traits::DsTile;
  static constexpr int kThreads = Traits::kThreads;
  static constexpr int kPairs = Traits::kPairs;
  static constexpr int kBlockM = Traits::kBlockM;
  static constexpr int kBlockN = Traits::kBlockN;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kChunkM = Traits::kChunkM;
  static constexpr int kWarpM = Traits::kWarpM;
  static constexpr int kSplit = Traits::kSplit;
  static constexpr int kRows16 = Traits::kWarpRows / 16;
  static constexpr int kMmaM = kWarpM / 16;
  static constexpr bool kKeyDq = Traits::kKeyDq;
  static_assert(sizeof(BwdWalk) <= Traits::kWalkBytes, "the walk fits");

  // Barriers of two warps: a pair's for each chunk, and those of two pairs that share keys.
  static constexpr bool kAlone = Traits::kMinBlocks == 1;
  static constexpr int kSiluCount = kPairs * (kBlockM / kChunkM), kSharers = kPairs / 2;
  static constexpr int kSiluBarrier = 1;
  static constexpr int kProbsBarrier = kSiluBarrier + kSiluCount;
  static constexpr int kDsBarrier = kProbsBarrier + kSharers;

  using Scores = float[kRows16][kWarpM / 8][4];        // C fragments of (kWarpRows, kWarpM)
  using Packed = uint32_t[kRows16][kMmaM][4];          // the same, rounded: A fragments
  using Sums = float[kRows16][Traits::kWarpD / 8][4];  // dV of a value warp, dK of a key warp
  using Resident = uint32_t[kRows16][Traits::kResident ? kHeadDim / 16 : 1][4];
  static constexpr int kFragments = kRows16 * kMmaM;

  // The keys of a block: one's index in the sequence, the first row of that in k, its length, and
  // the head of k.
  struct Keys {
    int32_t n0, k_begin, k_len, head_k;
  };

  // A block of queries on its way through shared memory.
  struct Stage {
    uint32_t q, d_o, ds;
  };

  const BwdArgs& args;
  BwdWalk& walk;
  const uint32_t base;  // of shared memory
  const int warp, lane;
  const bool key_warp;
  const int pair, part;  // part: of the queries, of the head dim
  const int row0;        // of this warp's keys
  // This lane's addresses.
  const uint32_t own_rows;      // A operand of S or dP
  const uint32_t at_nk, at_kn;  // from the start of Q or dO on
  const uint32_t own_dsilu;

  __device__ __forceinline__ BwdBlock(const BwdArgs& args, BwdWalk& walk, uint32_t base)
      : args(args),
        walk(walk),
        base(base),
        warp(threadIdx.x / kWarpSize),
        lane(threadIdx.x % kWarpSize),
        key_warp(warp >= kPairs),
        pair(key_warp ? warp - kPairs : warp),
        part(pair % kSplit),
        row0(pair / kSplit * Traits::kWarpRows),
        own_rows(base + (key_warp ? Traits::kVOffset : 0) +
                 KvTile::Offset(row0 + LaneMk(lane).row, LaneMk(lane).chunk)),
        at_nk(QTile::Offset(LaneNk(lane).row, LaneNk(lane).chunk) + part * kWarpM * QTile::kPitch),
        at_kn(QTile::Offset(LaneKn(lane).row, LaneKn(lane).chunk) ^ (part * Traits::kWarpD * 2)),
        own_dsilu(base + OwnDsilu(pair, row0, lane)) {}

  // dSiLU(S), a fragment register of a warp after the other: over dS, or where a split needs both.
  static constexpr int kDsiluWidth = kChunkM * 2;
  static constexpr int kDsiluStep =
      kSplit > 1 ? kFragmentBytes : kFragmentBytes / kDsiluWidth* DsTile::kPitch;

  __device__ __forceinline__ static uint32_t OwnDsilu(int pair, int row0, int lane) {
    return kSplit > 1
               ? Traits::kExchangeOffset + pair * Traits::kWarpChunkBytes + lane * kChunkBytes
               : Traits::kDsOffset + (row0 + lane * kChunkBytes / kDsiluWidth) * DsTile::kPitch +
                     lane * kChunkBytes % kDsiluWidth;
  }

  // Which keys, and which part of the queries; false: none.
  __device__ __forceinline__ static bool Begin(const BwdArgs& args, BwdWalk& walk, Keys& keys) {
    const BwdParams& p = args.p;
    // With ordered sums a ticket makes sure that earlier blocks are running or done.
    uint32_t index = blockIdx.x;
    if (p.deterministic) {
      if (threadIdx.x == 0) walk.todo = atomicAdd(args.semaphores, 1);
      __syncthreads();
      index = walk.todo;
      __syncthreads();
    }
    const int most = args.split.split.most;
    int split_part = 0;
    if (most > 1) {
      split_part = index % most;
      index /= most;
    }
    const int item = index / p.heads_k;
    keys.head_k = index % p.heads_k;
    if (item >= args.schedule->count) return false;
    const RowBlock b = reinterpret_cast<const RowBlock*>(args.schedule + 1)[item];
    keys.k_begin = p.cu_seqlens_k[b.seq];
    keys.k_len = p.cu_seqlens_k[b.seq + 1] - keys.k_begin;
    keys.n0 = b.block * kBlockN;
    const int q_begin = p.cu_seqlens_q[b.seq], q_len = p.cu_seqlens_q[b.seq + 1] - q_begin;
    const SeqMask mask = SequenceMask(p.mask, b.seq, keys.k_len);
    if (threadIdx.x == 0) {
      walk.mask = mask;
      walk.seq = b.seq;
      walk.k_begin = keys.k_begin;
      walk.head_k = keys.head_k;
      walk.q_begin = q_begin;
      walk.q_len = q_len;
      walk.off = keys.k_len - q_len;
      walk.m_begin = 0;
      walk.m_end = q_len;
      walk.parts = 1;
    }
    if (most == 1) return true;
    const RowRange rows = RowsThatSee(p.mask, mask, q_len, keys.n0, keys.n0 + kBlockN);
    const int parts = args.split.split.parts((rows.end - rows.begin) * (p.heads / p.heads_k));
    if (split_part >= parts) return false;
    if (threadIdx.x == 0) {
      const int first = rows.begin / kBlockM, blocks = (rows.end + kBlockM - 1) / kBlockM - first;
      if (split_part > 0) walk.m_begin = (first + blocks * split_part / parts) * kBlockM;
      if (split_part + 1 < parts)
        walk.m_end = (first + blocks * (split_part + 1) / parts) * kBlockM;
      walk.part = split_part;
      walk.parts = parts;
    }
    return true;
  }

  // Requests K and V, and finds the first two blocks of queries.
  __device__ __forceinline__ void Start(const Keys& keys) const {
    const BwdParams& p = args.p;
    const auto load = [&](const Rows& rows, uint32_t to) {
      LoadRows<KvTile, kThreads>(to,
                                 RowAt<const Element>(rows, keys.k_begin + keys.n0, keys.head_k),
                                 rows.row_stride, keys.k_len - keys.n0, threadIdx.x);
    };
    load(p.k, base);
    load(p.v, base + Traits::kVOffset);
    if (warp == 0) {
      if (lane == 0) {
        walk.n0 = keys.n0;
        walk.n1 = min(keys.n0 + kBlockN, keys.k_len);
        walk.head = keys.head_k * (p.heads / p.heads_k) - 1;
        walk.head_end = walk.head + 1 + p.heads / p.heads_k;
        walk.base = walk.q_len;
        walk.todo = 0;
        walk.partial = 0;
      }
      __syncwarp();
      Advance<kBlockM>(p, p.deterministic, walk, 0);
      __syncwarp();
      if (walk.at(0).head >= 0) Advance<kBlockM>(p, p.deterministic, walk, 1);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void Run() const {
    Sums sums = {};
    Resident resident;
    for (int i = 0;; ++i) {
      if (Traits::kStages == 1) {
        __syncthreads();
        RequestQueries(i);
      } else if (i == 0) {
        RequestQueries(0);
      }
      CpAsyncWait<0>();
      __syncthreads();
      const QueryBlock block = walk.at(i);
      if (Traits::kStages == 2 && block.head >= 0) RequestQueries(i + 1);
      ReleaseDq(i - 2);

      const uint32_t stage = i % Traits::kStages * Traits::kQBytes;
      const Stage at = {base + Traits::kQOffset + stage, base + Traits::kDoOffset + stage,
                        static_cast<uint32_t>(i & 1) * Traits::kDsBytes};
      if constexpr (Traits::kResident) {
        if (i == 0) LoadResident(resident);
      }
      if (!key_warp) {
        if (block.head >= 0) {
#pragma unroll 1
          for (int chunk = 0; chunk < kBlockM / kChunkM; ++chunk) {
            ValueStep(block, at, chunk, resident, sums);
          }
        }
        if (!kKeyDq && i > 0) AddDq(i - 1, at);
        if (warp == 0 && block.head >= 0 && walk.at(i + 1).head >= 0) {
          Advance<kBlockM>(args.p, args.p.deterministic, walk, i + 2);
        }
      } else {
        if (i > 0) AddDq(i - 1, at);
        if (block.head >= 0) {
#pragma unroll 1
          for (int chunk = 0; chunk < kBlockM / kChunkM; ++chunk) {
            KeyStep(at, chunk, resident, sums);
          }
        }
      }
      if (block.head < 0) {
        __syncthreads();
        ReleaseDq(i - 1);
        break;
      }
    }
    Finish(sums);
  }

  // Issues the loads of query block number `n`: Q by the value warps; dO by the key warps, or by
  // the value warps too where the key warps have dQ to compute.
  __device__ __forceinline__ void RequestQueries(int n) const {
    const BwdParams& p = args.p;
    const QueryBlock block = walk.at(n);
    const uint32_t stage = n % Traits::kStages * Traits::kQBytes;
    const auto load = [&](const Rows& rows, uint32_t to) {
      LoadRows<QTile, kThreads / 2>(to,
                                    RowAt<const Element>(rows, walk.q_begin + block.m0, block.head),
                                    rows.row_stride, block.valid, threadIdx.x % (kThreads / 2));
    };
    if (block.head >= 0) {
      if (!key_warp) load(p.q, base + Traits::kQOffset + stage);
      if (key_warp != kKeyDq) load(p.d_o, base + Traits::kDoOffset + stage);
    }
    CpAsyncCommit();
  }

  __device__ __forceinline__ void LoadResident(Resident& resident) const {
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
        LdMatrixX4(resident[r][k], (own_rows ^ (k * kMmaBytes)) + r * 16 * KvTile::kPitch);
      }
    }
  }

  // S and P of a chunk of queries, and dV += P^T dO.
  __device__ __forceinline__ void ValueStep(const QueryBlock& block, const Stage& at, int chunk,
                                            const Resident& resident, Sums& dv) const {
    const BwdParams& p = args.p;
    const int m_chunk = chunk * kChunkM;
    Scores s = {};
    if constexpr (Traits::kHasRab) {
      LoadRab<Element>(s, p.rab, walk, block.head, block.m0 + m_chunk + part * kWarpM,
                       walk.n0 + row0);
    }
    ProductNt<Element, QTile, Traits::kResident>(s, own_rows,
                                                 at.q + at_nk + m_chunk * QTile::kPitch, resident);
    Packed probs;
    const uint32_t out = own_dsilu + (kSplit > 1 ? 0 : at.ds + m_chunk * 2);
    uint32_t words[kWarpM / kMaskBits];
    if (block.partial) {
#pragma unroll
      for (int h = 0; h < kWarpM / kMaskBits; ++h) {
        words[h] =
            QueryBits(p.mask, walk, block.m0 + m_chunk + part * kWarpM + h * kMaskBits + lane,
                      walk.n0 + row0);
      }
      Silu<true>(s, probs, out, words);
    } else {
      Silu<false>(s, probs, out, words);
    }
    PairBarrier<kAlone, kSiluBarrier, kSiluCount, false>(pair + chunk * kPairs);  // nobody laps
    const uint32_t b = at.d_o + at_kn + m_chunk * QTile::kPitch;
    if constexpr (kSplit > 1) {
      const uint32_t mine = own_dsilu + kPairs * Traits::kWarpChunkBytes;
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        const uint32_t(&x)[4] = probs[f / kMmaM][f % kMmaM];
        StoreShared(mine + f * kFragmentBytes, make_uint4(x[0], x[1], x[2], x[3]));
      }
      ProductRn<Element, QTile>(dv, probs, b + part * kWarpM * QTile::kPitch);
      PairBarrier<kAlone, kProbsBarrier, kSharers, true>(pair / 2);
      const uint32_t theirs =
          part == 0 ? mine + Traits::kWarpChunkBytes : mine - Traits::kWarpChunkBytes;
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        const uint4 x = LoadShared(theirs + f * kFragmentBytes);
        uint32_t(&to)[4] = probs[f / kMmaM][f % kMmaM];
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
      }
      ProductRn<Element, QTile>(dv, probs, b + (1 - part) * kWarpM * QTile::kPitch);
    } else {
      ProductRn<Element, QTile>(dv, probs, b);
    }
  }

  // S -> P as A fragments, and 2 dSiLU(S), packed alike, to `out`. `words`: if kPartial, which keys
  // of this warp query lane (+ 32, ..) sees.
  template <bool kPartial>
  __device__ __forceinline__ void Silu(const Scores& s, Packed& p, uint32_t out,
                                       const uint32_t (&words)[kWarpM / kMaskBits]) const {
    const float half_alpha = 0.5f * args.p.alpha;
#pragma unroll
    for (int j = 0; j < kMmaM; ++j) {
      uint32_t d[kRows16][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t seen[2] = {};
        if constexpr (kPartial) {
#pragma unroll
          for (int odd = 0; odd < 2; ++odd) {
            seen[odd] =
                __shfl_sync(kFullMask, words[j / 2], j % 2 * 16 + half * 8 + lane % 4 * 2 + odd) >>
                lane / 4;
          }
        }
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
          float silu[4], dsilu[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float h = s[r][2 * j + half][i] * half_alpha;
            if constexpr (kPartial) {
              h = (seen[i % 2] >> (r * 16 + i / 2 * 8)) & 1 ? h : kHiddenHalf;
            }
            const SiluAndSlope x = SiluAndSlopeOfHalf(h);
            dsilu[i] = x.slope;
            silu[i] = x.silu * Traits::kScale;
          }
          p[r][j][half * 2] = Pack<Element>(silu[0], silu[1]);
          p[r][j][half * 2 + 1] = Pack<Element>(silu[2], silu[3]);
          d[r][half * 2] = Pack<Element>(dsilu[0], dsilu[1]);
          d[r][half * 2 + 1] = Pack<Element>(dsilu[2], dsilu[3]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        StoreShared(out + (r * kMmaM + j) * kDsiluStep,
                    make_uint4(d[r][0], d[r][1], d[r][2], d[r][3]));
      }
    }
  }

  // dP and dS of a chunk of queries, and dK += dS^T Q.
  __device__ __forceinline__ void KeyStep(const Stage& at, int chunk, const Resident& resident,
                                          Sums& dk) const {
    const int m_chunk = chunk * kChunkM;
    Scores dp = {};
    ProductNt<Element, QTile, Traits::kResident>(
        dp, own_rows, at.d_o + at_nk + m_chunk * QTile::kPitch, resident);
    PairBarrier<kAlone, kSiluBarrier, kSiluCount, true>(pair + chunk * kPairs);
    Packed grad;
    const uint32_t in = own_dsilu + (kSplit > 1 ? 0 : at.ds + m_chunk * 2);
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int j = 0; j < kMmaM; ++j) {
        const uint4 dsilu = LoadShared(in + (r * kMmaM + j) * kDsiluStep);
        const uint32_t d[4] = {dsilu.x, dsilu.y, dsilu.z, dsilu.w};
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          const float2 v = Unpack<Element>(d[f]);
          const float* x = &dp[r][2 * j + f / 2][f % 2 * 2];
          grad[r][j][f] = Pack<Element>(x[0] * Traits::kScale * v.x, x[1] * Traits::kScale * v.y);
        }
      }
    }
    if (kSplit == 1) __syncwarp();  // the fragments are read: dS takes their place
    const uint32_t s_ds = base + Traits::kDsOffset;
    const uint32_t to = s_ds + at.ds + lane % 4 * 4 +
                        (DsTile::Offset(row0 + lane / 4, 0) ^ ((m_chunk + part * kWarpM) * 2));
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int j = 0; j < kMmaM; ++j) {
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          StoreShared(
              (to ^ ((2 * j + f / 2) * kChunkBytes)) + (r * 16 + f % 2 * 8) * DsTile::kPitch,
              grad[r][j][f]);
        }
      }
    }
    const uint32_t b = at.q + at_kn + m_chunk * QTile::kPitch;
    ProductRn<Element, QTile>(dk, grad, b + part * kWarpM * QTile::kPitch);
    if constexpr (kSplit > 1) {
      PairBarrier<kAlone, kDsBarrier, kSharers, true>(pair / 2);
      const uint32_t a = s_ds + at.ds +
                         (DsTile::Offset(row0 + LaneMk(lane).row, LaneMk(lane).chunk) ^
                          ((m_chunk + (1 - part) * kWarpM) * 2));
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
#pragma unroll
        for (int j = 0; j < kMmaM; ++j) {
          LdMatrixX4(grad[r][j], (a ^ (j * kMmaBytes)) + r * 16 * DsTile::kPitch);
        }
      }
      ProductRn<Element, QTile>(dk, grad, b + (1 - part) * kWarpM * QTile::kPitch);
    }
  }

  // dQ of query block number `n`, which came before the one at `at`, += dS K: this warp's part.
  __device__ __forceinline__ void AddDq(int n, const Stage& at) const {
    const QueryBlock block = walk.at(n);
    const int slot = DqSlot(block);
    const uint32_t ds = base + Traits::kDsOffset + (Traits::kDsBytes - at.ds);
    if (args.p.deterministic) {
      const int turn = DqTurn<kBlockM, kBlockN>(args.p, walk, block.m0);
      while (LoadAcquire(args.semaphores + 1 + slot) != turn) __nanosleep(32);
      __syncwarp();
    }
#pragma unroll
    for (int pass = 0; pass < Traits::kDqPasses; ++pass) {
      DqPart<Traits> dq;
      dq.Product(args, walk, block, slot, ds, base, pass);
      dq.Add();
    }
    if (args.p.deterministic) __threadfence();
    __syncwarp();
  }

  // The dQ of query block number `n` has been added: the next key block may add to it.
  __device__ __forceinline__ void ReleaseDq(int n) const {
    if (!args.p.deterministic || threadIdx.x != 0 || n < 0) return;
    const QueryBlock done = walk.at(n);
    __threadfence();
    atomicAdd(args.semaphores + 1 + DqSlot(done), 1);
  }

  __device__ __forceinline__ int DqSlot(const QueryBlock& block) const {
    return (FirstQueryBlock(walk.seq, walk.q_begin, kBlockM) + block.m0 / kBlockM) * args.p.heads +
           block.head;
  }

  // Writes dV through the rows of V, dK through the rows of K: no warp reads them any more. What
  // follows from the thread and the walk is computed afresh: the loop needs all registers.
  __device__ __forceinline__ void Finish(Sums& sums) const {
    const BwdParams& p = args.p;
    if (walk.parts > 1) {
      const int32_t block =
          (walk.k_begin / kBlockN + walk.seq + walk.n0 / kBlockN) * p.heads_k + walk.head_k;
      if (!JoinParts<kThreads>(args.split, block, walk.part, walk.parts, &walk.arrived, sums)) {
        return;
      }
    }
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    const bool keys_sum = thread / kWarpSize >= kPairs;
    const int own = thread / kWarpSize % kPairs;
    const Rows& rows = keys_sum ? p.dk : p.dv;
    const float scale = (keys_sum ? 0.5f * p.alpha : 1.0f) * p.inv_n / Traits::kScale;
    StoreRows<Traits>(sums, scale, base + (keys_sum ? 0 : Traits::kVOffset),
                      own / kSplit * Traits::kWarpRows,
                      own % kSplit * (Traits::kWarpD / kChunkElems),
                      RowAt<Element>(rows, walk.k_begin + walk.n0, walk.head_k), rows.row_stride,
                      walk.mask.k_len - walk.n0);
  }
};

template <class Traits>
__global__ __launch_bounds__(Traits::kThreads, Traits::kMinBlocks) void bwd_kernel(
    const __grid_constant__ BwdArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  using Block = BwdBlock<Traits>;
  BwdWalk& walk = *reinterpret_cast<BwdWalk*>(smem + Traits::kWalkOffset);
  typename Block::Keys keys;
  if (!Block::Begin(args, walk, keys)) return;
  const Block block(args, walk, SmemAddress(smem));
  block.Start(keys);
  block.Run();
}

// dQ from the accumulators: one CUDA block per (block of queries, head), and those of the tail.
template <class Traits>
__global__ __launch_bounds__(Traits::kDqWarps* kWarpSize) void bwd_convert_dq(
    const __grid_constant__ BwdArgs args) {
  using Element = typename Traits::Element;
  using Tile = typename Traits::QTile;
  constexpr int kTiles8 = Traits::kDqCols / 8, kRows16 = Traits::kDqRows / 16;
  constexpr int kBlockM = Traits::kBlockM;
  __shared__ __align__(1024) unsigned char smem[Tile::kBytes];
  const uint32_t tile = SmemAddress(smem);
  const BwdParams& p = args.p;
  const uint32_t blocks = gridDim.x - args.tail_blocks;
  if (blockIdx.x >= blocks) return ClearGradients(p, blockIdx.x - blocks, args.tail_blocks);
  const int slot = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  // The last sequence whose blocks start at or before `slot`.
  int seq = 0;
  for (int step = 1 << (31 - __clz(p.batch)); step > 0; step /= 2) {
    const int next = seq + step;
    if (next < p.batch && FirstQueryBlock(next, p.cu_seqlens_q[next], kBlockM) <= slot) seq = next;
  }
  const int q_begin = p.cu_seqlens_q[seq], q_len = p.cu_seqlens_q[seq + 1] - q_begin;
  const int m0 = (slot - FirstQueryBlock(seq, q_begin, kBlockM)) * kBlockM;
  if (m0 >= q_len) return;

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warp_m = warp / Traits::kDqWarpsD, warp_d = warp % Traits::kDqWarpsD;
  const float scale = 0.5f * p.alpha * p.inv_n / Traits::kScale;
  const float* in = DqPart<Traits>::Sums(args, blockIdx.x) +
                    warp * Traits::kDqPasses * Traits::kDqRegs * kWarpSize + lane;
#pragma unroll
  for (int pass = 0; pass < Traits::kDqPasses; ++pass) {
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int i = 0; i < kTiles8; ++i) {
        const float* at = in + (pass * Traits::kDqRegs + (r * kTiles8 + i) * 4) * kWarpSize;
        const int chunk = (warp_d * Traits::kDqPasses + pass) * kTiles8 + i;
        const int row = warp_m * Traits::kDqRows + r * 16 + lane / 4;
        StoreShared(tile + Tile::Offset(row, chunk) + lane % 4 * 4,
                    Pack<Element>(at[0] * scale, at[kWarpSize] * scale));
        StoreShared(tile + Tile::Offset(row + 8, chunk) + lane % 4 * 4,
                    Pack<Element>(at[2 * kWarpSize] * scale, at[3 * kWarpSize] * scale));
      }
    }
  }
  __syncthreads();
  Element* out = RowAt<Element>(p.dq, q_begin + m0, head);
  for (int i = threadIdx.x; i < kBlockM * Tile::kChunks; i += Traits::kDqWarps * kWarpSize) {
    const int row = i / Tile::kChunks, chunk = i % Tile::kChunks;
    if (m0 + row < q_len) {
      *reinterpret_cast<uint4*>(out + row * p.dq.row_stride + chunk * kChunkElems) =
          LoadShared(tile + Tile::Offset(row, chunk));
    }
  }
}

}  // namespace accel::hstu
