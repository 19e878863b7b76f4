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

#include "csrc/hstu_attn/bwd_kernel.cuh"
#include "csrc/hstu_attn/bwd_traits.h"

namespace accel::hstu {

// Which blocks of queries see the keys at hand: a bit each, the same ones for every head. Every
// warp walks for itself.
template <class Tile>
struct WholeWalk {
  static_assert(kBwdWholeKeys <= 32 * Tile::kBlockM, "a bit each");
  uint32_t seen, partial;
  uint32_t kept;  // those whose dQ has a sum already
  uint32_t todo;  // what is left of `seen` for `head`
  int32_t head;   // < 0: the walk is over

  // Whole warp. With the first keys, which come last, every block counts: its dQ is written then.
  __device__ __forceinline__ void start(const BwdParams& p, const BwdSequence& s, int n0) {
    constexpr int kM = Tile::kBlockM, kN = Tile::kBlockN;
    const int lane = threadIdx.x % 32, k_len = s.mask.k_len;
    TileKind kind = TileKind::kEmpty;
    bool before = false;
    if (kWithArbitrary && p.mask.func != nullptr) {
      for (int i = 0; i * kM < s.q_len; ++i) {
        const TileKind k = func_tile<kM>(p.mask, s, i * kM, n0, min(n0 + kN, k_len));
        if (i == lane) kind = k == TileKind::kFull ? k : TileKind::kPartial;
      }
      before = n0 + kN < k_len;
    } else if (lane * kM < s.q_len) {
      const int first = lane * kM + s.off, last = min(lane * kM + kM, s.q_len) + s.off;
#pragma unroll 1
      for (int n = (k_len - 1) / kN * kN; n >= n0; n -= kN) {
        before |= kind != TileKind::kEmpty;
        kind = s.mask.tile(first, last, n, min(n + kN, k_len));
      }
      if (n0 == 0 && kind == TileKind::kEmpty) kind = TileKind::kPartial;
    }
    seen = __ballot_sync(~0u, kind != TileKind::kEmpty);
    partial = __ballot_sync(~0u, kind == TileKind::kPartial);
    kept = __ballot_sync(~0u, before);
    todo = seen;
    head = seen == 0 ? -1 : s.head;
  }

  __device__ __forceinline__ QueryBlock next(const BwdSequence& s) {
    if (todo == 0 && head >= 0) {
      todo = seen;
      if (++head == s.head_end) head = -1;
    }
    const int bit = __ffs(todo) - 1;
    todo &= todo - 1;
    return {head, bit * Tile::kBlockM, 0, false};
  }

  __device__ __forceinline__ static bool has(uint32_t bits, const QueryBlock& block) {
    return (bits >> (block.m0 / Tile::kBlockM) & 1) != 0;
  }
};

// Adds this warp's part of a query block's dQ to the sum of the keys before, or, with the first
// keys, writes dQ.
template <class Tile, class T>
__device__ __forceinline__ void keep_dq(DqPart<Tile>& part, const BwdParams& p,
                                        const BwdSequence& s, const QueryBlock& block, bool kept,
                                        int pass) {
  if (s.n0 > 0) {
    if (kept) {
      part.add();
    } else {
#pragma unroll
      for (int i = 0; i < Tile::kDqRegs; ++i) part.out[i * 32] = part.at(i);
    }
    return;
  }
  if (kept) {
#pragma unroll
    for (int i = 0; i < Tile::kDqRegs; ++i) part.at(i) += __ldcg(part.out + i * 32);
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / Tile::kDqWarpsD, warp_d = warp % Tile::kDqWarpsD;
  const int col0 = (warp_d * Tile::kDqPasses + pass) * Tile::kDqCols;
  const float scale = 0.5f * p.alpha * p.inv_n / kBwdScale<T>;
  T* const rows = static_cast<T*>(p.dq.data) + s.q_begin * p.dq.row_stride +
                  block.head * p.dq.head_stride + col0 + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < part.kRows16; ++r) {
#pragma unroll
    for (int low = 0; low < 2; ++low) {
      const int m = block.m0 + warp_m * Tile::kDqRows + r * 16 + low * 8 + lane / 4;
      if (m < s.q_len) {
#pragma unroll
        for (int t = 0; t < part.kTiles8; ++t) {
          __stcs(reinterpret_cast<uint32_t*>(rows + m * p.dq.row_stride + t * 8),
                 Pack<T>(part.dq[r][t][low * 2] * scale, part.dq[r][t][low * 2 + 1] * scale));
        }
      }
    }
  }
}

// S -> P as A fragments, and S becomes 2 dSiLU(S). `word`: if kPartial, which keys of this warp
// query `lane` sees.
template <class T, bool kPartial>
__device__ __forceinline__ void silu_in_place(float (&s)[1][4][4], uint32_t (&p)[1][2][4],
                                              float half_alpha, uint32_t word) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    uint32_t seen[2] = {};
    if constexpr (kPartial) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        seen[odd] = __shfl_sync(~0u, word, t * 8 + lane % 4 * 2 + odd) >> lane / 4;
      }
    }
    float silu[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float h = s[0][t][i] * half_alpha;
      if constexpr (kPartial) {  // SiLU and its derivative are 0 far below 0
        h = (seen[i % 2] >> (i / 2 * 8)) & 1 ? h : -1e4f;
      }
      const float tanh = TanhApprox(h), up = 1.0f + tanh;
      silu[i] = h * up;
      s[0][t][i] = fmaf(silu[i], 1.0f - tanh, up);
      silu[i] *= kBwdScale<T>;
    }
    p[0][t / 2][t % 2 * 2] = Pack<T>(silu[0], silu[1]);
    p[0][t / 2][t % 2 * 2 + 1] = Pack<T>(silu[2], silu[3]);
  }
}

template <class Tile, class T, bool kHasRab, bool kHasDrab>
__global__ __launch_bounds__(Tile::kThreads, Tile::kMinBlocks) void bwd_whole_kernel(
    const __grid_constant__ BwdArgs args) {
  constexpr int kM = Tile::kBlockM, kN = Tile::kBlockN, kD = Tile::kHeadDim;
  constexpr int kTiles8 = Tile::kWarpD / 8;
  using SmemKv = SmemTile<kN, kD>;
  using SmemQ = SmemTile<kM, kD>;
  using SmemDs = SmemTile<kN, kM>;
  static_assert(sizeof(BwdSequence) <= Tile::kWalkBytes, "the sequence fits");

  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t s_k = SmemAddress(smem);               // (kN, kD)
  const uint32_t s_v = s_k + Tile::kKvBytes;            // (kN, kD)
  const uint32_t s_q = s_v + Tile::kKvBytes;            // 2 x Q, dO, (kM, kD) each
  const uint32_t s_staging = s_q + 2 * Tile::kQBytes;   // dV, then dK: behind the first Q, dO
  const uint32_t s_ds = s_staging + 2 * Tile::kQBytes;  // 2 x (kN, kM)
  static_assert(Tile::kKvBytes <= 2 * Tile::kQBytes + 2 * Tile::kDsBytes, "dV or dK fits");
  BwdSequence& own = *reinterpret_cast<BwdSequence*>(smem + Tile::kSmemBytes - Tile::kWalkBytes);

  const BwdParams& p = args.p;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row0 = warp / Tile::kSplit * Tile::kWarpRows;  // of this warp's keys
  const int part = warp % Tile::kSplit;                    // of the head dim
  const int item = blockIdx.x / p.heads_k, head_k = blockIdx.x % p.heads_k;
  const int seq = args.order != nullptr ? args.order[item] : item;
  const int k_begin = p.cu_seqlens_k[seq];
  const int k_len = p.cu_seqlens_k[seq + 1] - k_begin;

  // This lane's addresses.
  const LanePos mk = LaneMk(lane), nk = LaneNk(lane), kn = LaneKn(lane);
  const uint32_t own_k = s_k + SmemKv::Offset(row0 + mk.row, mk.chunk);
  const uint32_t at_nk = SmemQ::Offset(nk.row, nk.chunk);
  const uint32_t at_kn = SmemQ::Offset(kn.row, kn.chunk) ^ (part * Tile::kWarpD * 2);
  const uint32_t to_ds = s_ds + SmemDs::Offset(row0 + lane / 4, 0) + lane % 4 * 4;

  if (threadIdx.x == 0) {
    own.q_begin = p.cu_seqlens_q[seq];
    own.q_len = p.cu_seqlens_q[seq + 1] - own.q_begin;
    own.off = k_len - own.q_len;
    own.mask = seq_mask(p.mask, seq, k_len);
    own.seq = seq;
    own.head = head_k * (p.heads / p.heads_k);
    own.head_end = own.head + p.heads / p.heads_k;
  }

  const auto load_keys = [&](const Rows& rows, uint32_t to, int n0) {
    load_rows<SmemKv, Tile::kThreads, true>(to,
                                            static_cast<const T*>(rows.data) +
                                                (k_begin + n0) * rows.row_stride +
                                                head_k * rows.head_stride,
                                            rows.row_stride, k_len - n0, threadIdx.x);
  };
  // Issues the loads of query block `n`: half of the warps load Q, the other half dO.
  const auto load_queries = [&](const QueryBlock& block, int n) {
    if (block.head >= 0) {
      const int grad = warp / (Tile::kWarps / 2);
      const Rows& rows = grad ? p.d_o : p.q;
      load_rows<SmemQ, Tile::kThreads / 2>(
          s_q + (n % 2 * 2 + grad) * Tile::kQBytes,
          static_cast<const T*>(rows.data) + (own.q_begin + block.m0) * rows.row_stride +
              block.head * rows.head_stride,
          rows.row_stride, own.q_len - block.m0, threadIdx.x % (Tile::kThreads / 2));
    }
    CpAsyncCommit();
  };
  WholeWalk<Tile> walk;
  QueryBlock block = {}, next;
  const auto begin = [&](int n0) {
    walk.start(p, own, n0);
    next = walk.next(own);
    load_queries(next, 0);
  };
  const auto store_keys = [&](const Rows& rows, const float(&acc)[1][kTiles8][4], float scale,
                              int n0) {
    store_rows<Tile, T, true>(
        acc, scale, s_staging, row0, part * kTiles8,
        static_cast<T*>(rows.data) + (k_begin + n0) * rows.row_stride + head_k * rows.head_stride,
        rows.row_stride, k_len - n0);
  };

  int n0 = max(k_len - 1, 0) / kN * kN;  // first key
  load_keys(p.k, s_k, n0);
  load_keys(p.v, s_v, n0);
  __syncthreads();
  begin(n0);
  for (;;) {
    if (threadIdx.x == 0) own.n0 = n0;
    float dv[1][kTiles8][4] = {}, dk[1][kTiles8][4] = {};
    for (int i = 0;; ++i) {
      CpAsyncWait<0>();
      __syncthreads();
      const QueryBlock previous = block;
      block = next;
      if (block.head >= 0) {
        next = walk.next(own);
        load_queries(next, i + 1);
      }
      const uint32_t ds = (i & 1) * Tile::kDsBytes;
      if (i > 0) {
        const int slot =
            (first_query_block(seq, own.q_begin, kM) + previous.m0 / kM) * p.heads + previous.head;
#pragma unroll
        for (int pass = 0; pass < Tile::kDqPasses; ++pass) {
          DqPart<Tile> dq;
          product_dq<Tile, T, kHasDrab>(dq, args, own, previous, slot, s_ds + (Tile::kDsBytes - ds),
                                        s_k, pass);
          keep_dq<Tile, T>(dq, p, own, previous, walk.has(walk.kept, previous), pass);
        }
        __syncwarp();
      }
      if (block.head < 0) break;

      const uint32_t q = s_q + i % 2 * 2 * Tile::kQBytes, d_o = q + Tile::kQBytes;
      uint32_t word = ~0u;
      bool any = true, all = true;  // of the warp's pairs are seen
      if (walk.has(walk.partial, block)) {
        constexpr uint32_t kRows = (1u << Tile::kWarpRows) - 1;
        word = visible(p.mask, own, block.m0 + lane, own.n0 + row0);
        any = __any_sync(~0u, (word & kRows) != 0);
        all = __all_sync(~0u, (word & kRows) == kRows);
      }
      uint32_t grad[1][kM / 16][4] = {};
      if (any) {
        float s[1][kM / 8][4] = {}, dp[1][kM / 8][4] = {};
        uint32_t probs[1][kM / 16][4];
        const uint32_t none[1][1][4] = {};
        if constexpr (kHasRab) {
          load_rab<Tile, T>(s, p.rab, own, block.head, block.m0, own.n0 + row0);
        }
        product_nt<T, SmemQ, false>(s, own_k, q + at_nk, none);
        product_nt<T, SmemQ, false>(dp, own_k + Tile::kKvBytes, d_o + at_nk, none);
        if (all) {
          silu_in_place<T, false>(s, probs, 0.5f * p.alpha, word);
        } else {
          silu_in_place<T, true>(s, probs, 0.5f * p.alpha, word);
        }
#pragma unroll
        for (int t = 0; t < kM / 8; ++t) {
#pragma unroll
          for (int low = 0; low < 2; ++low) {
            const float* const d = &s[0][t][low * 2];
            const float* const g = &dp[0][t][low * 2];
            grad[0][t / 2][t % 2 * 2 + low] =
                Pack<T>(g[0] * kBwdScale<T> * d[0], g[1] * kBwdScale<T> * d[1]);
          }
        }
        product_rn<T, SmemQ>(dv, probs, d_o + at_kn);
      }
      if (part == 0) {
#pragma unroll
        for (int t = 0; t < kM / 8; ++t) {
#pragma unroll
          for (int low = 0; low < 2; ++low) {
            StoreShared(((to_ds + ds) ^ (t * 16)) + low * 8 * SmemDs::kPitch,
                        grad[0][t / 2][t % 2 * 2 + low]);
          }
        }
      }
      if (any) product_rn<T, SmemQ>(dk, grad, q + at_kn);
    }
    __syncthreads();
    if (n0 > 0) {  // the next keys are on their way while these are stored
      load_keys(p.k, s_k, n0 - kN);
      load_keys(p.v, s_v, n0 - kN);
      begin(n0 - kN);
    }
    const float scale = p.inv_n / kBwdScale<T>;
    store_keys(p.dv, dv, scale, n0);
    store_keys(p.dk, dk, scale * 0.5f * p.alpha, n0);
    if (n0 == 0) break;
    n0 -= kN;
    __syncthreads();
  }
}

}  // namespace accel::hstu
