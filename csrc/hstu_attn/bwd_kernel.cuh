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
// (without Tile::kKeyDq the value warps take their share of dQ at their end.)
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

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/mask.h"
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
  bool drab_by_pairs;  // two neighbours of drab may be written as one 32-bit word
};

template <class T>
constexpr float kBwdScale = std::is_same_v<T, __half> ? 0.0625f : 1.0f;

// The dQ accumulator block of a sequence's first rows; no two sequences share a block.
__device__ __forceinline__ int32_t first_query_block(int32_t seq, int32_t row, int block_m) {
  return row / block_m + seq;
}

// Named barriers 1.. of a CUDA block; 0 is __syncthreads. The ids are immediates, since a kernel
// that names a barrier by a register reserves all sixteen and fewer blocks fit on a multiprocessor.
template <int kId, bool kWait>
__device__ __forceinline__ void pair_barrier() {
  if constexpr (kWait) {
    asm volatile("bar.sync %0, 64;\n" ::"n"(kId) : "memory");
  } else {
    asm volatile("bar.arrive %0, 64;\n" ::"n"(kId) : "memory");
  }
}

// Barrier kFirst + `index` of two warps; index < kCount <= 8. `kAlone`: one block a multiprocessor.
template <bool kAlone, int kFirst, int kCount, bool kWait>
__device__ __forceinline__ void pair_barrier(int index) {
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
      return pair_barrier<kFirst, kWait>();
    case 1:
      return pair_barrier<kFirst + (1 < kCount ? 1 : 0), kWait>();
    case 2:
      return pair_barrier<kFirst + (2 < kCount ? 2 : 0), kWait>();
    case 3:
      return pair_barrier<kFirst + (3 < kCount ? 3 : 0), kWait>();
    case 4:
      return pair_barrier<kFirst + (4 < kCount ? 4 : 0), kWait>();
    case 5:
      return pair_barrier<kFirst + (5 < kCount ? 5 : 0), kWait>();
    case 6:
      return pair_barrier<kFirst + (6 < kCount ? 6 : 0), kWait>();
    default:
      return pair_barrier<kFirst + (7 < kCount ? 7 : 0), kWait>();
  }
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
  int32_t base;  // `todo` and `partial` are about 32 query blocks from here on
  uint32_t todo, partial;
  int32_t m_begin, m_end;  // the rows of this part
  int32_t part, parts;
  uint32_t arrived;  // parts that ended before this one
  QueryBlock ring[4];
};

// One bit per column [base, base + 32) that lies in [begin, end).
__device__ __forceinline__ uint32_t column_bits(int begin, int end, int base) {
  const int lo = max(begin - base, 0), hi = min(end - base, 32);
  return hi <= lo ? 0u : (~0u >> (32 - (hi - lo))) << lo;
}

// How `func` sees a tile; asked by a whole warp.
template <int kBlockM>
__device__ __forceinline__ TileKind func_tile(const MaskParams& p, const BwdSequence& w, int m0,
                                              int n0, int n1) {
  bool any = false, all = true;
  for (int m = m0 + threadIdx.x % 32; m < min(m0 + kBlockM, w.q_len); m += 32) {
    const int32_t* f = p.func + w.q_begin + m;
    bool inside = f[0] >= n1;
    any |= f[0] > n0;
    for (int n = 1; n + 1 < p.n_func; n += 2) {
      const int begin = f[n * p.func_stride], end = f[(n + 1) * p.func_stride];
      any |= begin < end && begin < n1 && end > n0;
      inside |= begin <= n0 && end >= n1;
    }
    all &= inside;
  }
  if (!__any_sync(~0u, any)) return TileKind::kEmpty;
  return __all_sync(~0u, all) ? TileKind::kFull : TileKind::kPartial;
}

// Moves the walk one query block on and stores it in ring[slot]. Called by one whole warp.
// `ordered`: dQ's sums have an order.
template <int kBlockM>
__device__ __forceinline__ void advance(const BwdParams& p, bool ordered, BwdWalk& w, int slot) {
  const int lane = threadIdx.x % 32;
  int head = w.head, base = w.base;
  uint32_t todo = w.todo, partial = w.partial;
  __syncwarp();
  while (todo == 0) {
    base += 32 * kBlockM;
    if (base >= w.m_end) {
      if (++head >= w.head_end) {
        if (lane == 0) w.ring[slot].head = -1;
        return;
      }
      base = w.m_begin;
    }
    TileKind kind = TileKind::kEmpty;
    if (kWithArbitrary && p.mask.func != nullptr) {
      for (int i = 0; i < 32 && base + i * kBlockM < w.m_end; ++i) {
        TileKind k = func_tile<kBlockM>(p.mask, w, base + i * kBlockM, w.n0, w.n1);
        // The order of sums counts every key block.
        if (ordered && k == TileKind::kEmpty) k = TileKind::kPartial;
        if (i == lane) kind = k;
      }
    } else {
      const int m0 = base + lane * kBlockM;
      if (m0 < w.m_end) {
        kind = w.mask.tile(m0 + w.off, min(m0 + kBlockM, w.q_len) + w.off, w.n0, w.n1);
      }
    }
    todo = __ballot_sync(~0u, kind != TileKind::kEmpty);
    partial = __ballot_sync(~0u, kind == TileKind::kPartial);
  }
  const int bit = __ffs(todo) - 1;
  todo &= todo - 1;
  if (lane == 0) {
    const int m0 = base + bit * kBlockM;
    w.ring[slot] = {head, m0, w.q_len - m0, (partial >> bit & 1) != 0};
    w.head = head;
    w.base = base;
    w.todo = todo;
    w.partial = partial;
  }
}

// Bit n of the result = row m sees column n0 + n.
__device__ __forceinline__ uint32_t visible(const MaskParams& p, const BwdSequence& w, int m,
                                            int n0) {
  if (m >= w.q_len) return 0;
  if (kWithArbitrary && p.func != nullptr) {
    const int32_t* f = p.func + w.q_begin + m;
    uint32_t bits = column_bits(0, f[0], n0);
    for (int n = 1; n + 1 < p.n_func; n += 2) {
      bits |= column_bits(f[n * p.func_stride], f[(n + 1) * p.func_stride], n0);
    }
    return bits;
  }
  const RowSpan s = w.mask.row(m + w.off);
  return column_bits(s.begin, s.hist, n0) | column_bits(s.group, s.end, n0);
}

// Starts the copy of rows [0, valid) of a tile and of zeros for the rest, by kThreads threads of
// which this is number `thread`. kOnce: nobody reads them again.
template <class Smem, int kThreads, bool kOnce = false, class T>
__device__ __forceinline__ void load_rows(uint32_t dst, const T* src, int64_t stride, int valid,
                                          int thread) {
  constexpr int kRowsPerPass = kThreads / Smem::kChunks;
  constexpr int kPasses = Smem::kRows / kRowsPerPass;
  static_assert(kThreads % Smem::kChunks == 0 && Smem::kRows % kRowsPerPass == 0, "whole passes");
  asm volatile("" : "+r"(thread));  // addresses are computed afresh: registers are scarce
  const int row = thread / Smem::kChunks, chunk = thread % Smem::kChunks;
  // 32-bit products: a row of a tile lies less than 2^31 elements behind its first one.
  const T* at = src + row * static_cast<int32_t>(stride) + chunk * kChunkElems;
  const uint32_t to = dst + Smem::Offset(row, chunk);
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    (kOnce ? CpAsyncOnce : CpAsync)(
        (to ^ (i * kRowsPerPass % 8 * kChunkBytes)) + i * kRowsPerPass * Smem::kPitch, at,
        row + i * kRowsPerPass < valid ? kChunkBytes : 0);
    at += kRowsPerPass * static_cast<int32_t>(stride);
  }
}

// C (kRows16 * 16, kTiles8 * 8) = A B^T with A (rows, k) and B (cols, k) in shared memory; `a`
// and `b` are this lane's addresses (LaneMk, LaneNk). kResident: the A fragments are given.
template <class T, class Smem, bool kResident, int kRows16, int kTiles8, int kFragments>
__device__ __forceinline__ void product_nt(float (&c)[kRows16][kTiles8][4], uint32_t a, uint32_t b,
                                           const uint32_t (&given)[kRows16][kFragments][4]) {
#pragma unroll
  for (int k = 0; k < Smem::kCols / 16; ++k) {
    uint32_t fa[kRows16][4];
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
      if constexpr (kResident) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fa[r][i] = given[r][k][i];
      } else {
        LdMatrixX4(fa[r], (a ^ (k * 32)) + r * 16 * Smem::kPitch);
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      LdMatrixX4(fb, (b ^ (k * 32)) + t * 16 * Smem::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        Mma<T>(c[r][2 * t], fa[r], fb[0], fb[1]);
        Mma<T>(c[r][2 * t + 1], fa[r], fb[2], fb[3]);
      }
    }
  }
}

// C (kRows16 * 16, kTiles8 * 8) += A B with A in registers and B (k, cols) in shared memory; `b` is
// this lane's address (LaneKn).
template <class T, class Smem, int kRows16, int kTiles8, int kSteps>
__device__ __forceinline__ void product_rn(float (&c)[kRows16][kTiles8][4],
                                           const uint32_t (&a)[kRows16][kSteps][4], uint32_t b) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      LdMatrixX4Trans(fb, (b ^ (t * 32)) + k * 16 * Smem::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        Mma<T>(c[r][2 * t], a[r][k], fb[0], fb[1]);
        Mma<T>(c[r][2 * t + 1], a[r][k], fb[2], fb[3]);
      }
    }
  }
}

// How many key blocks after this one see the query block: they add to dQ first. Whole warp.
template <class Tile>
__device__ __forceinline__ int dq_turn(const BwdParams& p, const BwdSequence& w, int m0) {
  const int blocks = (w.mask.k_len + Tile::kBlockN - 1) / Tile::kBlockN;
  const int mine = w.n0 / Tile::kBlockN;
  if (kWithArbitrary && p.mask.func != nullptr) return blocks - 1 - mine;
  int turn = 0;
  for (int first = mine + 1; first < blocks; first += 32) {
    const int n0 = (first + static_cast<int>(threadIdx.x % 32)) * Tile::kBlockN;
    const bool sees =
        n0 < w.mask.k_len && w.mask.tile(m0 + w.off, min(m0 + Tile::kBlockM, w.q_len) + w.off, n0,
                                         min(n0 + Tile::kBlockN, w.mask.k_len)) != TileKind::kEmpty;
    turn += __popc(__ballot_sync(~0u, sees));
  }
  return turn;
}

__device__ __forceinline__ void add_global(float* to, float value) {
  asm volatile("red.global.add.f32 [%0], %1;\n" ::"l"(to), "f"(value) : "memory");
}

__device__ __forceinline__ int32_t load_acquire(const int32_t* at) {
  int32_t v;
  asm volatile("ld.global.acquire.gpu.s32 %0, [%1];\n" : "=r"(v) : "l"(at) : "memory");
  return v;
}

// Writes two neighbouring values (m, n), (m, n + 1) of dRab.
template <class T>
__device__ __forceinline__ void store_drab(const BwdArgs& args, const BwdSequence& w, T* drab,
                                           int m, int n, uint32_t ds, float scale) {
  if (m >= w.q_len || n >= w.mask.k_len) return;
  const float2 v = Unpack<T>(ds);
  const uint32_t both = Pack<T>(v.x * scale, v.y * scale);
  T* at = drab + (m + w.off) * args.p.drab.row_stride + n;
  if (args.drab_by_pairs && n + 1 < w.mask.k_len) {
    *reinterpret_cast<uint32_t*>(at) = both;
  } else {
    reinterpret_cast<uint16_t*>(at)[0] = static_cast<uint16_t>(both);
    if (n + 1 < w.mask.k_len)
      reinterpret_cast<uint16_t*>(at)[1] = static_cast<uint16_t>(both >> 16);
  }
}

// This warp's part of a query block's dQ (its rows and its columns of one pass), and where it goes.
template <class Tile>
struct DqPart {
  static constexpr int kRows16 = Tile::kDqRows / 16, kTiles8 = Tile::kDqCols / 8;
  float dq[kRows16][kTiles8][4];
  float* out;  // this lane's first sum

  __device__ __forceinline__ float& at(int i) {
    return dq[i / (4 * kTiles8)][i / 4 % kTiles8][i % 4];
  }

  __device__ __forceinline__ void add() {
#pragma unroll
    for (int i = 0; i < Tile::kDqRegs; ++i) add_global(out + i * 32, at(i));
  }
};

// part = dS K.
template <class Tile, class T, bool kHasDrab>
__device__ __forceinline__ void product_dq(DqPart<Tile>& part, const BwdArgs& args,
                                           const BwdSequence& w, const QueryBlock& block, int slot,
                                           uint32_t ds, uint32_t k, int pass) {
  using SmemK = SmemTile<Tile::kBlockN, Tile::kHeadDim>;
  using SmemDs = SmemTile<Tile::kBlockN, Tile::kBlockM>;
  constexpr int kRows16 = Tile::kDqRows / 16, kTiles8 = Tile::kDqCols / 8;
  const BwdParams& p = args.p;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % Tile::kDqWarps;  // the key warps are the upper half
  const int warp_m = warp / Tile::kDqWarpsD, warp_d = warp % Tile::kDqWarpsD;
  const int col0 = (warp_d * Tile::kDqPasses + pass) * Tile::kDqCols;
  const LanePos at_ds = LaneKm(lane), at_k = LaneKn(lane);
  const uint32_t a = ds + (SmemDs::Offset(at_ds.row, at_ds.chunk) ^ (warp_m * Tile::kDqRows * 2));
  const uint32_t b = k + (SmemK::Offset(at_k.row, at_k.chunk) ^ (col0 * 2));
#pragma unroll
  for (int i = 0; i < Tile::kDqRegs; ++i) part.at(i) = 0.0f;
#pragma unroll
  for (int n = 0; n < Tile::kBlockN / 16; ++n) {
    uint32_t fa[kRows16][4];
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
      LdMatrixX4Trans(fa[r], (a ^ (r * 32)) + n * 16 * SmemDs::kPitch);
    }
    if constexpr (kHasDrab) {
      if (pass == 0 && n % Tile::kDqWarpsD == warp_d) {
        const float scale = p.alpha * p.inv_n * 0.5f / kBwdScale<T>;
        T* drab = static_cast<T*>(p.drab.data) + w.seq * p.drab.batch_stride +
                  block.head * p.drab.head_stride;
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            store_drab<T>(args, w, drab,
                          block.m0 + warp_m * Tile::kDqRows + r * 16 + lane / 4 + i % 2 * 8,
                          w.n0 + n * 16 + lane % 4 * 2 + i / 2 * 8, fa[r][i], scale);
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      LdMatrixX4Trans(fb, (b ^ (t * 32)) + n * 16 * SmemK::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        Mma<T>(part.dq[r][2 * t], fa[r], fb[0], fb[1]);
        Mma<T>(part.dq[r][2 * t + 1], fa[r], fb[2], fb[3]);
      }
    }
  }
  part.out = args.dq + slot * static_cast<int64_t>(Tile::kBlockM * Tile::kHeadDim) +
             (warp * Tile::kDqPasses + pass) * Tile::kDqRegs * 32 + lane;
}

// dQ of one query block += dS K, the part of this warp.
template <class Tile, class T, bool kHasDrab>
__device__ __forceinline__ void add_dq(DqPart<Tile>& part, const BwdArgs& args, const BwdWalk& w,
                                       const QueryBlock& block, uint32_t ds, uint32_t k) {
  const int slot = (first_query_block(w.seq, w.q_begin, Tile::kBlockM) + block.m0 / Tile::kBlockM) *
                       args.p.heads +
                   block.head;
  if (args.p.deterministic) {
    const int turn = dq_turn<Tile>(args.p, w, block.m0);
    while (load_acquire(args.semaphores + 1 + slot) != turn) __nanosleep(32);
    __syncwarp();
  }
#pragma unroll
  for (int pass = 0; pass < Tile::kDqPasses; ++pass) {
    product_dq<Tile, T, kHasDrab>(part, args, w, block, slot, ds, k, pass);
    part.add();
  }
  if (args.p.deterministic) __threadfence();
  __syncwarp();
}

// S starts from rab instead of 0.
template <class Tile, class T, int kRows16, int kTiles8>
__device__ __forceinline__ void load_rab(float (&s)[kRows16][kTiles8][4], const Rab& rab,
                                         const BwdSequence& w, int head, int m_warp, int n_warp) {
  const int lane = threadIdx.x % 32;
  const uint16_t* at =
      static_cast<const uint16_t*>(rab.data) + w.seq * rab.batch_stride + head * rab.head_stride;
#pragma unroll
  for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int m = m_warp + t * 8 + lane % 4 * 2 + odd;
      const uint16_t* row = at + (m + w.off) * rab.row_stride;
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          const int n = n_warp + r * 16 + lane / 4 + low * 8;
          const uint16_t bits = m < w.q_len && n < w.mask.k_len ? row[n] : uint16_t{0};
          s[r][t][low * 2 + odd] = Unpack<T>(bits).x;
        }
      }
    }
  }
}

// S -> P as A fragments, and 2 dSiLU(S), packed alike, to `out` (this lane's address, kStep bytes
// from fragment to fragment). `words`: if kPartial, which keys of this warp query lane (+ 32, ..)
// sees.
template <class T, bool kPartial, int kStep, int kRows16, int kTiles8>
__device__ __forceinline__ void silu(const float (&s)[kRows16][kTiles8][4],
                                     uint32_t (&p)[kRows16][kTiles8 / 2][4], uint32_t out,
                                     float half_alpha, const uint32_t (&words)[kTiles8 / 4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kTiles8 / 2; ++j) {
    uint32_t d[kRows16][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t seen[2] = {};
      if constexpr (kPartial) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          seen[odd] = __shfl_sync(~0u, words[j / 2], j % 2 * 16 + half * 8 + lane % 4 * 2 + odd) >>
                      lane / 4;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        float silu[4], dsilu[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float h = s[r][2 * j + half][i] * half_alpha;
          if constexpr (kPartial) {  // SiLU and its derivative are 0 far below 0
            h = (seen[i % 2] >> (r * 16 + i / 2 * 8)) & 1 ? h : -1e4f;
          }
          const float t = TanhApprox(h);
          const float up = 1.0f + t;
          silu[i] = h * up;
          dsilu[i] = fmaf(silu[i], 1.0f - t, up);
          silu[i] *= kBwdScale<T>;
        }
        p[r][j][half * 2] = Pack<T>(silu[0], silu[1]);
        p[r][j][half * 2 + 1] = Pack<T>(silu[2], silu[3]);
        d[r][half * 2] = Pack<T>(dsilu[0], dsilu[1]);
        d[r][half * 2 + 1] = Pack<T>(dsilu[2], dsilu[3]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
      StoreShared(out + (r * (kTiles8 / 2) + j) * kStep,
                  make_uint4(d[r][0], d[r][1], d[r][2], d[r][3]));
    }
  }
}

// Stages this warp's (kWarpRows, kWarpD) sums in its part of a tile and writes the rows < valid.
// kOnce: they leave the L2 cache before other data does.
template <class Tile, class T, bool kOnce = false, int kRows16, int kTiles8>
__device__ __forceinline__ void store_rows(const float (&acc)[kRows16][kTiles8][4], float scale,
                                           uint32_t smem, int row0, int chunk0, T* out,
                                           int64_t row_stride, int valid) {
  using Smem = SmemTile<Tile::kBlockN, Tile::kHeadDim>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRows16; ++r) {
#pragma unroll
    for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        StoreShared(
            smem + Smem::Offset(row0 + r * 16 + low * 8 + lane / 4, chunk0 + t) + lane % 4 * 4,
            Pack<T>(acc[r][t][low * 2] * scale, acc[r][t][low * 2 + 1] * scale));
      }
    }
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < Tile::kWarpRows * kTiles8; i += 32) {
    const int row = row0 + i / kTiles8, chunk = chunk0 + i % kTiles8;
    const uint4 v = LoadShared(smem + Smem::Offset(row, chunk));
    if (row < valid) {
      uint4* const to = reinterpret_cast<uint4*>(out + row * row_stride + chunk * kChunkElems);
      if constexpr (kOnce) {
        __stcs(to, v);
      } else {
        *to = v;
      }
    }
  }
  __syncwarp();  // lanes that store fewer rows wait: barriers follow
}

template <class Tile, class T, bool kHasRab, bool kHasDrab>
__global__ __launch_bounds__(Tile::kThreads, Tile::kMinBlocks) void bwd_kernel(
    const __grid_constant__ BwdArgs args) {
  constexpr int kM = Tile::kBlockM, kN = Tile::kBlockN, kD = Tile::kHeadDim;
  constexpr int kRows16 = Tile::kWarpRows / 16, kWarpM = Tile::kWarpM, kSplit = Tile::kSplit;
  constexpr int kFragments = kRows16 * (kWarpM / 16);
  constexpr bool kAlone = Tile::kMinBlocks == 1;
  constexpr int kSiluBarriers = Tile::kPairs * (kM / Tile::kChunkM);  // a pair and chunk each
  using SmemKv = SmemTile<kN, kD>;
  using SmemQ = SmemTile<kM, kD>;
  using SmemDs = SmemTile<kN, kM>;
  static_assert(sizeof(BwdWalk) <= Tile::kWalkBytes, "the walk fits");

  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t s_k = SmemAddress(smem);                      // (kN, kD)
  const uint32_t s_v = s_k + Tile::kKvBytes;                   // (kN, kD)
  const uint32_t s_q = s_v + Tile::kKvBytes;                   // kStages x (kM, kD)
  const uint32_t s_do = s_q + Tile::kStages * Tile::kQBytes;   // kStages x (kM, kD)
  const uint32_t s_ds = s_do + Tile::kStages * Tile::kQBytes;  // 2 x (kN, kM)
  const uint32_t s_exchange = s_ds + 2 * Tile::kDsBytes;
  BwdWalk& walk = *reinterpret_cast<BwdWalk*>(smem + Tile::kSmemBytes - Tile::kWalkBytes);

  const BwdParams& p = args.p;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool key_warp = warp >= Tile::kPairs;
  const int pair = key_warp ? warp - Tile::kPairs : warp;
  const int part = pair % kSplit;                    // of the queries, of the head dim
  const int row0 = pair / kSplit * Tile::kWarpRows;  // of this warp's keys
  const bool ordered = p.deterministic;

  // Which keys. With ordered sums a ticket makes sure that earlier blocks are running or done.
  uint32_t index = blockIdx.x;
  if (ordered) {
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
  const int item = index / p.heads_k, head_k = index % p.heads_k;
  if (item >= args.schedule->count) return;
  const RowBlock keys = reinterpret_cast<const RowBlock*>(args.schedule + 1)[item];
  const int k_begin = p.cu_seqlens_k[keys.seq];
  const int k_len = p.cu_seqlens_k[keys.seq + 1] - k_begin;
  const int n0 = keys.block * kN;  // first key
  const int q_begin = p.cu_seqlens_q[keys.seq], q_len = p.cu_seqlens_q[keys.seq + 1] - q_begin;
  const SeqMask mask = seq_mask(p.mask, keys.seq, k_len);
  if (threadIdx.x == 0) {
    walk.mask = mask;
    walk.seq = keys.seq;
    walk.k_begin = k_begin;
    walk.head_k = head_k;
    walk.q_begin = q_begin;
    walk.q_len = q_len;
    walk.off = k_len - q_len;
    walk.m_begin = 0;
    walk.m_end = q_len;
    walk.parts = 1;
  }
  if (most > 1) {
    const RowRange rows = rows_that_see(p.mask, mask, q_len, n0, n0 + kN);
    const int parts = args.split.split.parts((rows.end - rows.begin) * (p.heads / p.heads_k));
    if (split_part >= parts) return;
    if (threadIdx.x == 0) {
      const int first = rows.begin / kM, blocks = (rows.end + kM - 1) / kM - first;
      if (split_part > 0) walk.m_begin = (first + blocks * split_part / parts) * kM;
      if (split_part + 1 < parts) walk.m_end = (first + blocks * (split_part + 1) / parts) * kM;
      walk.part = split_part;
      walk.parts = parts;
    }
  }

  // This lane's addresses.
  const LanePos mk = LaneMk(lane), nk = LaneNk(lane), kn = LaneKn(lane);
  const uint32_t own_rows =  // A operand of S or dP
      (key_warp ? s_v : s_k) + SmemKv::Offset(row0 + mk.row, mk.chunk);
  const uint32_t at_nk = SmemQ::Offset(nk.row, nk.chunk) + part * kWarpM * SmemQ::kPitch;
  const uint32_t at_kn = SmemQ::Offset(kn.row, kn.chunk) ^ (part * Tile::kWarpD * 2);
  // dSiLU(S), a fragment register of a warp after the other: over dS, or where a split needs both.
  constexpr int kWidth = Tile::kChunkM * 2;
  constexpr int kStep = kSplit > 1 ? 512 : 512 / kWidth * SmemDs::kPitch;
  const uint32_t own_dsilu =
      kSplit > 1 ? s_exchange + pair * Tile::kWarpChunkBytes + lane * 16
                 : s_ds + (row0 + lane * 16 / kWidth) * SmemDs::kPitch + lane * 16 % kWidth;

  load_rows<SmemKv, Tile::kThreads>(
      s_k,
      static_cast<const T*>(p.k.data) + (k_begin + n0) * p.k.row_stride + head_k * p.k.head_stride,
      p.k.row_stride, k_len - n0, threadIdx.x);
  load_rows<SmemKv, Tile::kThreads>(
      s_v,
      static_cast<const T*>(p.v.data) + (k_begin + n0) * p.v.row_stride + head_k * p.v.head_stride,
      p.v.row_stride, k_len - n0, threadIdx.x);
  if (warp == 0) {
    if (lane == 0) {
      walk.n0 = n0;
      walk.n1 = min(n0 + kN, k_len);
      walk.head = head_k * (p.heads / p.heads_k) - 1;
      walk.head_end = walk.head + 1 + p.heads / p.heads_k;
      walk.base = walk.q_len;
      walk.todo = 0;
      walk.partial = 0;
    }
    __syncwarp();
    advance<kM>(p, ordered, walk, 0);
    __syncwarp();
    if (walk.ring[0].head >= 0) advance<kM>(p, ordered, walk, 1);
  }
  __syncthreads();

  float acc[kRows16][Tile::kWarpD / 8][4] = {};  // dV of a value warp, dK of a key warp
  uint32_t resident[kRows16][Tile::kResident ? kD / 16 : 1][4];

  for (int i = 0;; ++i) {
    // Issues the loads of query block `n`: Q by the value warps; dO by the key warps, or by the
    // value warps too where the key warps have dQ to compute.
    const auto load = [&](const Rows& rows, uint32_t to, const QueryBlock& block) {
      load_rows<SmemQ, Tile::kThreads / 2>(
          to,
          static_cast<const T*>(rows.data) + (walk.q_begin + block.m0) * rows.row_stride +
              block.head * rows.head_stride,
          rows.row_stride, block.valid, threadIdx.x % (Tile::kThreads / 2));
    };
    const auto start = [&](int n) {
      const QueryBlock block = walk.ring[n & 3];
      const uint32_t stage = n % Tile::kStages * Tile::kQBytes;
      if (block.head >= 0) {
        if (!key_warp) load(p.q, s_q + stage, block);
        if (key_warp != Tile::kKeyDq) load(p.d_o, s_do + stage, block);
      }
      CpAsyncCommit();
    };
    // The dQ of query block `n` has been added: the next key block may add to it.
    const auto release = [&](int n) {
      if (!ordered || threadIdx.x != 0 || n < 0) return;
      const QueryBlock done = walk.ring[n & 3];
      __threadfence();
      atomicAdd(args.semaphores + 1 +
                    (first_query_block(walk.seq, walk.q_begin, kM) + done.m0 / kM) * p.heads +
                    done.head,
                1);
    };
    if (Tile::kStages == 1) {
      __syncthreads();
      start(i);
    } else if (i == 0) {
      start(0);
    }
    CpAsyncWait<0>();
    __syncthreads();
    const QueryBlock block = walk.ring[i & 3];
    if (Tile::kStages == 2 && block.head >= 0) start(i + 1);
    release(i - 2);

    const uint32_t q = s_q + i % Tile::kStages * Tile::kQBytes;
    const uint32_t d_o = s_do + i % Tile::kStages * Tile::kQBytes;
    const uint32_t ds = (i & 1) * Tile::kDsBytes;
    if constexpr (Tile::kResident) {
      if (i == 0) {
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
#pragma unroll
          for (int k = 0; k < kD / 16; ++k) {
            LdMatrixX4(resident[r][k], (own_rows ^ (k * 32)) + r * 16 * SmemKv::kPitch);
          }
        }
      }
    }
    if (!key_warp) {
      if (block.head >= 0) {
#pragma unroll 1
        for (int chunk = 0; chunk < kM / Tile::kChunkM; ++chunk) {
          const int m_chunk = chunk * Tile::kChunkM;
          float s[kRows16][kWarpM / 8][4] = {};
          if constexpr (kHasRab) {
            load_rab<Tile, T>(s, p.rab, walk, block.head, block.m0 + m_chunk + part * kWarpM,
                              walk.n0 + row0);
          }
          product_nt<T, SmemQ, Tile::kResident>(s, own_rows, q + at_nk + m_chunk * SmemQ::kPitch,
                                                resident);
          uint32_t probs[kRows16][kWarpM / 16][4];
          const uint32_t out = own_dsilu + (kSplit > 1 ? 0 : ds + m_chunk * 2);
          uint32_t words[kWarpM / 32];
          if (block.partial) {
#pragma unroll
            for (int h = 0; h < kWarpM / 32; ++h) {
              words[h] = visible(p.mask, walk, block.m0 + m_chunk + part * kWarpM + h * 32 + lane,
                                 walk.n0 + row0);
            }
            silu<T, true, kStep>(s, probs, out, 0.5f * p.alpha, words);
          } else {
            silu<T, false, kStep>(s, probs, out, 0.5f * p.alpha, words);
          }
          pair_barrier<kAlone, 1, kSiluBarriers, false>(pair +
                                                        chunk * Tile::kPairs);  // nobody laps
          const uint32_t b = d_o + at_kn + m_chunk * SmemQ::kPitch;
          if constexpr (kSplit > 1) {
            const uint32_t mine = own_dsilu + Tile::kPairs * Tile::kWarpChunkBytes;
#pragma unroll
            for (int f = 0; f < kFragments; ++f) {
              const uint32_t(&x)[4] = probs[f / (kWarpM / 16)][f % (kWarpM / 16)];
              StoreShared(mine + f * 512, make_uint4(x[0], x[1], x[2], x[3]));
            }
            product_rn<T, SmemQ>(acc, probs, b + part * kWarpM * SmemQ::kPitch);
            pair_barrier<kAlone, 1 + kSiluBarriers, Tile::kPairs / 2, true>(pair / 2);
            const uint32_t theirs =
                part == 0 ? mine + Tile::kWarpChunkBytes : mine - Tile::kWarpChunkBytes;
#pragma unroll
            for (int f = 0; f < kFragments; ++f) {
              const uint4 x = LoadShared(theirs + f * 512);
              uint32_t(&to)[4] = probs[f / (kWarpM / 16)][f % (kWarpM / 16)];
              to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
            }
            product_rn<T, SmemQ>(acc, probs, b + (1 - part) * kWarpM * SmemQ::kPitch);
          } else {
            product_rn<T, SmemQ>(acc, probs, b);
          }
        }
      }
      if (!Tile::kKeyDq && i > 0) {
        DqPart<Tile> dq;
        add_dq<Tile, T, kHasDrab>(dq, args, walk, walk.ring[(i - 1) & 3],
                                  s_ds + (Tile::kDsBytes - ds), s_k);
      }
      if (warp == 0 && block.head >= 0 && walk.ring[(i + 1) & 3].head >= 0) {
        advance<kM>(p, ordered, walk, (i + 2) & 3);
      }
    } else {
      DqPart<Tile> dq;
      if (i > 0) {
        add_dq<Tile, T, kHasDrab>(dq, args, walk, walk.ring[(i - 1) & 3],
                                  s_ds + (Tile::kDsBytes - ds), s_k);
      }
      if (block.head >= 0) {
#pragma unroll 1
        for (int chunk = 0; chunk < kM / Tile::kChunkM; ++chunk) {
          const int m_chunk = chunk * Tile::kChunkM;
          float dp[kRows16][kWarpM / 8][4] = {};
          product_nt<T, SmemQ, Tile::kResident>(dp, own_rows, d_o + at_nk + m_chunk * SmemQ::kPitch,
                                                resident);
          pair_barrier<kAlone, 1, kSiluBarriers, true>(pair + chunk * Tile::kPairs);
          uint32_t grad[kRows16][kWarpM / 16][4];
          const uint32_t in = own_dsilu + (kSplit > 1 ? 0 : ds + m_chunk * 2);
#pragma unroll
          for (int r = 0; r < kRows16; ++r) {
#pragma unroll
            for (int j = 0; j < kWarpM / 16; ++j) {
              const uint4 dsilu = LoadShared(in + (r * (kWarpM / 16) + j) * kStep);
              const uint32_t d[4] = {dsilu.x, dsilu.y, dsilu.z, dsilu.w};
#pragma unroll
              for (int f = 0; f < 4; ++f) {
                const float2 v = Unpack<T>(d[f]);
                const float* at = &dp[r][2 * j + f / 2][f % 2 * 2];
                grad[r][j][f] = Pack<T>(at[0] * kBwdScale<T> * v.x, at[1] * kBwdScale<T> * v.y);
              }
            }
          }
          if (kSplit == 1) __syncwarp();  // the fragments are read: dS takes their place
          const uint32_t to =
              s_ds + ds + lane % 4 * 4 +
              (SmemDs::Offset(row0 + lane / 4, 0) ^ ((m_chunk + part * kWarpM) * 2));
#pragma unroll
          for (int r = 0; r < kRows16; ++r) {
#pragma unroll
            for (int j = 0; j < kWarpM / 16; ++j) {
#pragma unroll
              for (int f = 0; f < 4; ++f) {
                StoreShared((to ^ ((2 * j + f / 2) * 16)) + (r * 16 + f % 2 * 8) * SmemDs::kPitch,
                            grad[r][j][f]);
              }
            }
          }
          const uint32_t b = q + at_kn + m_chunk * SmemQ::kPitch;
          product_rn<T, SmemQ>(acc, grad, b + part * kWarpM * SmemQ::kPitch);
          if constexpr (kSplit > 1) {
            pair_barrier<kAlone, 1 + kSiluBarriers + Tile::kPairs / 2, Tile::kPairs / 2, true>(
                pair / 2);
            const uint32_t a =
                s_ds + ds +
                (SmemDs::Offset(row0 + mk.row, mk.chunk) ^ ((m_chunk + (1 - part) * kWarpM) * 2));
#pragma unroll
            for (int r = 0; r < kRows16; ++r) {
#pragma unroll
              for (int j = 0; j < kWarpM / 16; ++j) {
                LdMatrixX4(grad[r][j], (a ^ (j * 32)) + r * 16 * SmemDs::kPitch);
              }
            }
            product_rn<T, SmemQ>(acc, grad, b + (1 - part) * kWarpM * SmemQ::kPitch);
          }
        }
      }
    }
    if (block.head < 0) {
      __syncthreads();
      release(i - 1);
      break;
    }
  }

  if (walk.parts > 1) {
    const int32_t block = (walk.k_begin / kN + walk.seq + walk.n0 / kN) * p.heads_k + walk.head_k;
    if (!join_parts<Tile::kThreads>(args.split, block, walk.part, walk.parts, &walk.arrived, acc)) {
      return;
    }
  }

  // dV through the rows of V, dK through the rows of K: no warp reads them any more. What follows
  // from the thread and the walk is computed afresh: the loop needs all registers.
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  const bool keys_sum = thread / 32 >= Tile::kPairs;
  const int own = thread / 32 % Tile::kPairs;
  const Rows& rows = keys_sum ? p.dk : p.dv;
  const float scale = (keys_sum ? 0.5f * p.alpha : 1.0f) * p.inv_n / kBwdScale<T>;
  store_rows<Tile, T>(acc, scale, SmemAddress(smem) + (keys_sum ? 0 : Tile::kKvBytes),
                      own / kSplit * Tile::kWarpRows, own % kSplit * (Tile::kWarpD / kChunkElems),
                      static_cast<T*>(rows.data) + (walk.k_begin + walk.n0) * rows.row_stride +
                          walk.head_k * rows.head_stride,
                      rows.row_stride, walk.mask.k_len - walk.n0);
}

// dQ from the accumulators: one CUDA block per (block of queries, head).
template <class Tile, class T>
__global__ __launch_bounds__(Tile::kDqWarps *
                             32) void bwd_convert_dq(const __grid_constant__ BwdArgs args) {
  using Smem = SmemTile<Tile::kBlockM, Tile::kHeadDim>;
  constexpr int kTiles8 = Tile::kDqCols / 8, kRows16 = Tile::kDqRows / 16;
  __shared__ __align__(1024) unsigned char smem[Smem::kBytes];
  const uint32_t tile = SmemAddress(smem);
  const BwdParams& p = args.p;
  const int slot = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  // The last sequence whose blocks start at or before `slot`.
  int seq = 0;
  for (int step = 1 << (31 - __clz(p.batch)); step > 0; step /= 2) {
    const int next = seq + step;
    if (next < p.batch && first_query_block(next, p.cu_seqlens_q[next], Tile::kBlockM) <= slot) {
      seq = next;
    }
  }
  const int q_begin = p.cu_seqlens_q[seq], q_len = p.cu_seqlens_q[seq + 1] - q_begin;
  const int m0 = (slot - first_query_block(seq, q_begin, Tile::kBlockM)) * Tile::kBlockM;
  if (m0 >= q_len) return;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / Tile::kDqWarpsD, warp_d = warp % Tile::kDqWarpsD;
  const float scale = 0.5f * p.alpha * p.inv_n / kBwdScale<T>;
  const float* in = args.dq + blockIdx.x * static_cast<int64_t>(Tile::kBlockM * Tile::kHeadDim) +
                    warp * Tile::kDqPasses * Tile::kDqRegs * 32 + lane;
#pragma unroll
  for (int pass = 0; pass < Tile::kDqPasses; ++pass) {
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int i = 0; i < kTiles8; ++i) {
        const float* at = in + (pass * Tile::kDqRegs + (r * kTiles8 + i) * 4) * 32;
        const int chunk = (warp_d * Tile::kDqPasses + pass) * kTiles8 + i;
        const int row = warp_m * Tile::kDqRows + r * 16 + lane / 4;
        StoreShared(tile + Smem::Offset(row, chunk) + lane % 4 * 4,
                    Pack<T>(at[0] * scale, at[32] * scale));
        StoreShared(tile + Smem::Offset(row + 8, chunk) + lane % 4 * 4,
                    Pack<T>(at[64] * scale, at[96] * scale));
      }
    }
  }
  __syncthreads();
  T* out = static_cast<T*>(p.dq.data) + (q_begin + m0) * p.dq.row_stride + head * p.dq.head_stride;
  for (int i = threadIdx.x; i < Tile::kBlockM * Smem::kChunks; i += Tile::kDqWarps * 32) {
    const int row = i / Smem::kChunks, chunk = i % Smem::kChunks;
    if (m0 + row < q_len) {
      *reinterpret_cast<uint4*>(out + row * p.dq.row_stride + chunk * kChunkElems) =
          LoadShared(tile + Smem::Offset(row, chunk));
    }
  }
}

}  // namespace accel::hstu
