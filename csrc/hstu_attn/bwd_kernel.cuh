// File: bwd_kernel.cuh
//
// The backward kernel. A CUDA block owns kBlockN keys of one sequence and one head of K, and walks
// over the blocks of queries that see any of them, for every query head of the group. Products are
// formed transposed, keys x queries, so that P and dS leave the tensor core as the A fragments that
// dV and dK need: only dS goes through shared memory, once, for dQ.
//
// A pair of warps owns kWarpRows keys; its two warps run side by side, so that one warp's SiLU hides
// behind the other one's products:
//
//   value warp   S = K Q^T ; P, dSiLU(S) ---dSiLU--> dV += P^T dO
//   key warp     dQ(previous) += dS K ; dP = V dO^T ; dS = dP * dSiLU ; dK += dS^T Q
//
// One barrier per block of queries: it publishes the loads (issued one block earlier) and dS of the
// previous block, whose dQ is computed one block later. dQ is added to an fp32 accumulator in global
// memory, laid out as the registers are (coalesced), and converted by a last kernel.
//
//   t = tanh(S/2)   P = SiLU(S) = S/2 (1 + t)   2 dSiLU(S) = (1 + t) + P (1 - t)
//
// The factors 1/N, alpha and 1/2 are applied to the finished sums. fp16 operands are scaled by
// 1/16 on the way so that P and dP up to 1e6 stay finite.
#pragma once

#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/mask.h"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/tile.cuh"

namespace hstu {

struct BwdArgs {
  BwdParams p;
  const ScheduleHeader* schedule;
  int32_t* semaphores;  // [0]: ticket
  float* dq;
  bool drab_by_pairs;  // two neighbours of drab may be written as one 32-bit word
};

template <class T>
constexpr float kBwdScale = std::is_same_v<T, __half> ? 0.0625f : 1.0f;

// The dQ accumulator block of a sequence's first rows; no two sequences share a block.
__device__ __forceinline__ int32_t first_query_block(int32_t seq, int32_t row, int block_m) {
  return row / block_m + seq;
}

// Barriers 1.. of a CUDA block; 0 is __syncthreads.
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// One block of queries on the walk.
struct QueryBlock {
  int32_t head;  // query head; < 0: the walk is over
  int32_t m0;    // first row within the sequence
  int32_t partial;
  int32_t unused;
};

// The sequence at hand and how far the walk has come, in shared memory to spare registers.
struct BwdWalk {
  SeqMask mask;
  int32_t seq, q_begin, q_len, off;
  int32_t n0, n1;
  int32_t head, head_end, base;  // `todo` and `partial` are about 32 query blocks from `base` on
  uint32_t todo, partial;
  QueryBlock ring[4];
};

// One bit per column [base, base + 32) that lies in [begin, end).
__device__ __forceinline__ uint32_t column_bits(int begin, int end, int base) {
  const int lo = max(begin - base, 0), hi = min(end - base, 32);
  return hi <= lo ? 0u : (~0u >> (32 - (hi - lo))) << lo;
}

// How `func` sees a tile; asked by a whole warp.
template <int kBlockM>
__device__ __forceinline__ TileKind func_tile(const MaskParams& p, const BwdWalk& w, int m0) {
  bool any = false, all = true;
  for (int m = m0 + threadIdx.x % 32; m < min(m0 + kBlockM, w.q_len); m += 32) {
    const int32_t* f = p.func + w.q_begin + m;
    bool inside = f[0] >= w.n1;
    any |= f[0] > w.n0;
    for (int n = 1; n + 1 < p.n_func; n += 2) {
      const int begin = f[n * p.func_stride], end = f[(n + 1) * p.func_stride];
      any |= begin < end && begin < w.n1 && end > w.n0;
      inside |= begin <= w.n0 && end >= w.n1;
    }
    all &= inside;
  }
  if (!__any_sync(~0u, any)) return TileKind::kEmpty;
  return __all_sync(~0u, all) ? TileKind::kFull : TileKind::kPartial;
}

// Moves the walk one query block on and stores it in ring[slot]. Called by one whole warp.
template <int kBlockM>
__device__ __forceinline__ void advance(const BwdParams& p, BwdWalk& w, int slot) {
  const int lane = threadIdx.x % 32;
  int head = w.head, base = w.base;
  uint32_t todo = w.todo, partial = w.partial;
  __syncwarp();
  while (todo == 0) {
    base += 32 * kBlockM;
    if (base >= w.q_len) {
      if (++head >= w.head_end) {
        if (lane == 0) w.ring[slot].head = -1;
        return;
      }
      base = 0;
    }
    TileKind kind = TileKind::kEmpty;
    if (kWithArbitrary && p.mask.func != nullptr) {
      for (int i = 0; i < 32 && base + i * kBlockM < w.q_len; ++i) {
        TileKind k = func_tile<kBlockM>(p.mask, w, base + i * kBlockM);
        // The order of sums counts every key block.
        if (p.deterministic && k == TileKind::kEmpty) k = TileKind::kPartial;
        if (i == lane) kind = k;
      }
    } else {
      const int m0 = base + lane * kBlockM;
      if (m0 < w.q_len) {
        kind = w.mask.tile(m0 + w.off, min(m0 + kBlockM, w.q_len) + w.off, w.n0, w.n1);
      }
    }
    todo = __ballot_sync(~0u, kind != TileKind::kEmpty);
    partial = __ballot_sync(~0u, kind == TileKind::kPartial);
  }
  const int bit = __ffs(todo) - 1;
  todo &= todo - 1;
  if (lane == 0) {
    w.ring[slot] = {head, base + bit * kBlockM, static_cast<int32_t>(partial >> bit & 1), 0};
    w.head = head;
    w.base = base;
    w.todo = todo;
    w.partial = partial;
  }
}

// Bit n % 32 of out[(n / 32) * kBlockM + m] = row m sees column n. All threads.
template <class Tile>
__device__ __forceinline__ void build_mask(const MaskParams& p, const BwdWalk& w, int m0,
                                           uint32_t* out) {
  for (int i = threadIdx.x; i < Tile::kMaskWords; i += Tile::kThreads) {
    const int m = m0 + i % Tile::kBlockM;
    const int base = w.n0 + i / Tile::kBlockM * 32;
    uint32_t bits = 0;
    if (m < w.q_len) {
      if (kWithArbitrary && p.func != nullptr) {
        const int32_t* f = p.func + w.q_begin + m;
        bits = column_bits(0, f[0], base);
        for (int n = 1; n + 1 < p.n_func; n += 2) {
          bits |= column_bits(f[n * p.func_stride], f[(n + 1) * p.func_stride], base);
        }
      } else {
        const RowSpan s = w.mask.row(m + w.off);
        bits = column_bits(s.begin, s.hist, base) | column_bits(s.group, s.end, base);
      }
    }
    out[i] = bits;
  }
}

// Starts the copy of rows [0, valid) of a tile and of zeros for the rest. All threads.
template <class Smem, int kThreads, class T>
__device__ __forceinline__ void load_rows(uint32_t dst, const T* src, int64_t row_stride,
                                          int valid) {
  constexpr int kRowsPerPass = kThreads / Smem::kChunks;
  constexpr int kPasses = Smem::kRows / kRowsPerPass;
  static_assert(kThreads % Smem::kChunks == 0 && Smem::kRows % kRowsPerPass == 0, "whole passes");
  const int row = threadIdx.x / Smem::kChunks, chunk = threadIdx.x % Smem::kChunks;
  const T* at = src + row * row_stride + chunk * kChunkElems;
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int r = row + i * kRowsPerPass;
    cp_async(dst + Smem::offset(r, chunk), r < valid ? at : src, r < valid ? 16 : 0);
    at += kRowsPerPass * row_stride;
  }
}

// C (kRows16 * 16, kTiles8 * 8) = A B^T with A (rows, k) and B (cols, k) in shared memory; `a`
// and `b` are this lane's addresses (lane_mk, lane_nk). kResident: the A fragments are given.
template <class T, class Smem, int kRows16, int kTiles8, bool kResident, int kFragments>
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
        ldmatrix_x4(fa[r], (a ^ (k * 32)) + r * 16 * Smem::kPitch);
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      ldmatrix_x4(fb, (b ^ (k * 32)) + t * 16 * Smem::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        mma<T>(c[r][2 * t], fa[r], fb[0], fb[1]);
        mma<T>(c[r][2 * t + 1], fa[r], fb[2], fb[3]);
      }
    }
  }
}

// C (kRows16 * 16, kTiles8 * 8) += A B with A in registers and B (k, cols) in shared memory; `b` is
// this lane's address (lane_kn).
template <class T, class Smem, int kRows16, int kTiles8, int kSteps>
__device__ __forceinline__ void product_rn(float (&c)[kRows16][kTiles8][4],
                                           const uint32_t (&a)[kRows16][kSteps][4], uint32_t b) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      ldmatrix_x4_trans(fb, (b ^ (t * 32)) + k * 16 * Smem::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        mma<T>(c[r][2 * t], a[r][k], fb[0], fb[1]);
        mma<T>(c[r][2 * t + 1], a[r][k], fb[2], fb[3]);
      }
    }
  }
}

// How many key blocks after this one see the query block: they add to dQ first. Whole warp.
template <class Tile>
__device__ __forceinline__ int dq_turn(const BwdParams& p, const BwdWalk& w, int m0) {
  const int blocks = (w.mask.k_len + Tile::kBlockN - 1) / Tile::kBlockN;
  const int mine = w.n0 / Tile::kBlockN;
  if (kWithArbitrary && p.mask.func != nullptr) return blocks - 1 - mine;
  int turn = 0;
  for (int first = mine + 1; first < blocks; first += 32) {
    const int n0 = (first + static_cast<int>(threadIdx.x % 32)) * Tile::kBlockN;
    const bool sees = n0 < w.mask.k_len &&
                      w.mask.tile(m0 + w.off, min(m0 + Tile::kBlockM, w.q_len) + w.off, n0,
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
__device__ __forceinline__ void store_drab(const BwdArgs& args, const BwdWalk& w, T* drab, int m,
                                           int n, uint32_t ds, float scale) {
  if (m >= w.q_len || n >= w.mask.k_len) return;
  const float2 v = unpack<T>(ds);
  const uint32_t both = pack<T>(v.x * scale, v.y * scale);
  T* at = drab + (m + w.off) * args.p.drab.row_stride + n;
  if (args.drab_by_pairs && n + 1 < w.mask.k_len) {
    *reinterpret_cast<uint32_t*>(at) = both;
  } else {
    reinterpret_cast<uint16_t*>(at)[0] = static_cast<uint16_t>(both);
    if (n + 1 < w.mask.k_len) reinterpret_cast<uint16_t*>(at)[1] = static_cast<uint16_t>(both >> 16);
  }
}

// dQ of one query block += dS K, by the key warps. `pair` is this warp's index among them.
template <class Tile, class T, bool kHasDrab>
__device__ __forceinline__ void add_dq(const BwdArgs& args, const BwdWalk& w,
                                       const QueryBlock& block, uint32_t ds, uint32_t k, int pair) {
  using SmemK = SmemTile<Tile::kBlockN, Tile::kHeadDim>;
  using SmemDs = SmemTile<Tile::kBlockN, Tile::kBlockM>;
  constexpr int kRows16 = Tile::kDqRows / 16, kTiles8 = Tile::kDqCols / 8;
  const BwdParams& p = args.p;
  const int lane = threadIdx.x % 32;
  const int warp_m = pair / Tile::kDqWarpsD, warp_d = pair % Tile::kDqWarpsD;
  const int head = block.head, m0 = block.m0;
  const int64_t slot =
      (first_query_block(w.seq, w.q_begin, Tile::kBlockM) + m0 / Tile::kBlockM) *
          static_cast<int64_t>(p.heads) +
      head;
  const LanePos at_ds = lane_km(lane), at_k = lane_kn(lane);
  const uint32_t a = ds + (SmemDs::offset(at_ds.row, at_ds.chunk) ^ (warp_m * Tile::kDqRows * 2));
  float* out = args.dq + slot * (Tile::kBlockM * Tile::kHeadDim) + pair * Tile::kDqRegs * 32 + lane;
#pragma unroll
  for (int pass = 0; pass < Tile::kDqPasses; ++pass) {
    const uint32_t b = k + (SmemK::offset(at_k.row, at_k.chunk) ^
                            ((pass * Tile::kDqWarpsD + warp_d) * Tile::kDqCols * 2));
    float dq[kRows16][kTiles8][4] = {};
#pragma unroll
    for (int n = 0; n < Tile::kBlockN / 16; ++n) {
      uint32_t fa[kRows16][4];
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        ldmatrix_x4_trans(fa[r], (a ^ (r * 32)) + n * 16 * SmemDs::kPitch);
      }
      if constexpr (kHasDrab) {
        if (pass == 0 && n % Tile::kDqWarpsD == warp_d) {
          const float scale = p.alpha * p.inv_n * 0.5f / kBwdScale<T>;
          T* drab = static_cast<T*>(p.drab.data) + w.seq * p.drab.batch_stride +
                    head * p.drab.head_stride;
#pragma unroll
          for (int r = 0; r < kRows16; ++r) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              store_drab<T>(args, w, drab,
                            m0 + warp_m * Tile::kDqRows + r * 16 + lane / 4 + i % 2 * 8,
                            w.n0 + n * 16 + lane % 4 * 2 + i / 2 * 8, fa[r][i], scale);
            }
          }
        }
      }
#pragma unroll
      for (int t = 0; t < kTiles8 / 2; ++t) {
        uint32_t fb[4];
        ldmatrix_x4_trans(fb, (b ^ (t * 32)) + n * 16 * SmemK::kPitch);
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
          mma<T>(dq[r][2 * t], fa[r], fb[0], fb[1]);
          mma<T>(dq[r][2 * t + 1], fa[r], fb[2], fb[3]);
        }
      }
    }
    if (pass == 0 && p.deterministic) {
      const int turn = dq_turn<Tile>(p, w, m0);
      while (load_acquire(args.semaphores + 1 + slot) != turn) __nanosleep(32);
      __syncwarp();
    }
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          add_global(out + (pass * Tile::kPairs * Tile::kDqRegs + (r * kTiles8 + t) * 4 + i) * 32,
                     dq[r][t][i]);
        }
      }
    }
  }
  if (p.deterministic) {
    __threadfence();
    barrier_sync(Tile::kPairs + 1, Tile::kPairs * 32);
    if (pair == 0 && lane == 0) atomicAdd(args.semaphores + 1 + slot, 1);
  }
}

// S starts from rab instead of 0.
template <class Tile, class T, int kRows16, int kTiles8>
__device__ __forceinline__ void load_rab(float (&s)[kRows16][kTiles8][4], const Rab& rab,
                                         const BwdWalk& w, const QueryBlock& block, int n_warp) {
  const int lane = threadIdx.x % 32;
  const uint16_t* at = static_cast<const uint16_t*>(rab.data) + w.seq * rab.batch_stride +
                       block.head * rab.head_stride;
#pragma unroll
  for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int m = block.m0 + t * 8 + lane % 4 * 2 + odd;
      const uint16_t* row = at + (m + w.off) * rab.row_stride;
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          const int n = n_warp + r * 16 + lane / 4 + low * 8;
          const uint16_t bits = m < w.q_len && n < w.mask.k_len ? row[n] : uint16_t{0};
          s[r][t][low * 2 + odd] = unpack<T>(bits).x;
        }
      }
    }
  }
}

// S -> P as A fragments, and 2 dSiLU(S), packed alike, to `out` (this lane's address). `words`: the
// mask of this warp's keys, one word per query; read when kPartial.
template <class T, bool kPartial, int kRows16, int kTiles8>
__device__ __forceinline__ void silu(const float (&s)[kRows16][kTiles8][4],
                                     uint32_t (&p)[kRows16][kTiles8 / 2][4], uint32_t out,
                                     float half_alpha, const uint32_t* words, int shift) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kTiles8 / 2; ++j) {
    uint32_t d[kRows16][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint2 seen = {0, 0};
      if constexpr (kPartial) {
        seen = *reinterpret_cast<const uint2*>(words + j * 16 + half * 8 + lane % 4 * 2);
        seen.x >>= shift + lane / 4;
        seen.y >>= shift + lane / 4;
      }
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        float silu[4], dsilu[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float h = s[r][2 * j + half][i] * half_alpha;
          const float t = tanh_approx(h);
          const float up = 1.0f + t;
          silu[i] = h * up;
          dsilu[i] = fmaf(silu[i], 1.0f - t, up);
          if constexpr (kPartial) {
            const bool see = ((i % 2 == 0 ? seen.x : seen.y) >> (r * 16 + i / 2 * 8)) & 1;
            silu[i] = see ? silu[i] : 0.0f;
            dsilu[i] = see ? dsilu[i] : 0.0f;
          }
          silu[i] *= kBwdScale<T>;
        }
        p[r][j][half * 2] = pack<T>(silu[0], silu[1]);
        p[r][j][half * 2 + 1] = pack<T>(silu[2], silu[3]);
        d[r][half * 2] = pack<T>(dsilu[0], dsilu[1]);
        d[r][half * 2 + 1] = pack<T>(dsilu[2], dsilu[3]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
      st_shared(out + (r * (kTiles8 / 2) + j) * 512, make_uint4(d[r][0], d[r][1], d[r][2], d[r][3]));
    }
  }
}

// Stages this warp's (kWarpRows, kHeadDim) sums in its rows of a tile and writes those < valid.
template <class Tile, class T, int kRows16, int kTiles8>
__device__ __forceinline__ void store_rows(const float (&acc)[kRows16][kTiles8][4], float scale,
                                           uint32_t smem, int row0, T* out, int64_t row_stride,
                                           int valid) {
  using Smem = SmemTile<Tile::kBlockN, Tile::kHeadDim>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRows16; ++r) {
#pragma unroll
    for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        st_shared(smem + Smem::offset(row0 + r * 16 + low * 8 + lane / 4, t) + lane % 4 * 4,
                  pack<T>(acc[r][t][low * 2] * scale, acc[r][t][low * 2 + 1] * scale));
      }
    }
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < Tile::kWarpRows * Smem::kChunks; i += 32) {
    const int row = row0 + i / Smem::kChunks, chunk = i % Smem::kChunks;
    const uint4 v = ld_shared(smem + Smem::offset(row, chunk));
    if (row < valid) {
      *reinterpret_cast<uint4*>(out + row * row_stride + chunk * kChunkElems) = v;
    }
  }
}

template <class Tile, class T, bool kHasRab, bool kHasDrab>
__global__ __launch_bounds__(Tile::kThreads, Tile::kMinBlocks) void bwd_kernel(
    const __grid_constant__ BwdArgs args) {
  constexpr int kM = Tile::kBlockM, kN = Tile::kBlockN, kD = Tile::kHeadDim;
  constexpr int kRows16 = Tile::kWarpRows / 16;
  using SmemKv = SmemTile<kN, kD>;
  using SmemQ = SmemTile<kM, kD>;
  using SmemDs = SmemTile<kN, kM>;
  static_assert(sizeof(BwdWalk) <= Tile::kWalkBytes, "the walk fits");

  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t s_k = smem_address(smem);                             // (kN, kD)
  const uint32_t s_v = s_k + Tile::kKvBytes;                           // (kN, kD)
  const uint32_t s_q = s_v + Tile::kKvBytes;                           // kStages x (kM, kD)
  const uint32_t s_do = s_q + Tile::kStages * Tile::kQBytes;           // kStages x (kM, kD)
  const uint32_t s_ds = s_do + Tile::kStages * Tile::kQBytes;          // 2 x (kN, kM)
  uint32_t* const masks = reinterpret_cast<uint32_t*>(                 // 2 x (kN / 32, kM)
      smem + 2 * Tile::kKvBytes + 2 * Tile::kStages * Tile::kQBytes + 2 * Tile::kDsBytes);
  BwdWalk& walk = *reinterpret_cast<BwdWalk*>(masks + 2 * Tile::kMaskWords);

  const BwdParams& p = args.p;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool key_warp = warp >= Tile::kPairs;
  const int pair = key_warp ? warp - Tile::kPairs : warp;

  // Which keys. With ordered sums a ticket makes sure that earlier blocks are running or done.
  uint32_t index = blockIdx.x;
  if (p.deterministic) {
    if (threadIdx.x == 0) walk.todo = atomicAdd(args.semaphores, 1);
    __syncthreads();
    index = walk.todo;
    __syncthreads();
  }
  const int item = index / p.heads_k, head_k = index % p.heads_k;
  if (item >= args.schedule->count) return;
  const RowBlock keys = reinterpret_cast<const RowBlock*>(args.schedule + 1)[item];
  const int k_begin = p.cu_seqlens_k[keys.seq];
  const int k_len = p.cu_seqlens_k[keys.seq + 1] - k_begin;
  const int n0 = keys.block * kN;

  if (warp == 0) {
    if (lane == 0) {
      walk.mask = seq_mask(p.mask, keys.seq, k_len);
      walk.seq = keys.seq;
      walk.q_begin = p.cu_seqlens_q[keys.seq];
      walk.q_len = p.cu_seqlens_q[keys.seq + 1] - walk.q_begin;
      walk.off = k_len - walk.q_len;
      walk.n0 = n0;
      walk.n1 = min(n0 + kN, k_len);
      walk.head = head_k * (p.heads / p.heads_k) - 1;
      walk.head_end = walk.head + 1 + p.heads / p.heads_k;
      walk.base = walk.q_len;
      walk.todo = 0;
      walk.partial = 0;
    }
    __syncwarp();
    advance<kM>(p, walk, 0);
    __syncwarp();
    if (walk.ring[0].head >= 0) advance<kM>(p, walk, 1);
  }
  load_rows<SmemKv, Tile::kThreads>(
      s_k, static_cast<const T*>(p.k.data) + (k_begin + n0) * p.k.row_stride +
               head_k * p.k.head_stride,
      p.k.row_stride, k_len - n0);
  load_rows<SmemKv, Tile::kThreads>(
      s_v, static_cast<const T*>(p.v.data) + (k_begin + n0) * p.v.row_stride +
               head_k * p.v.head_stride,
      p.v.row_stride, k_len - n0);
  __syncthreads();

  // This lane's addresses.
  const LanePos mk = lane_mk(lane), nk = lane_nk(lane), kn = lane_kn(lane);
  const uint32_t own_rows =  // A operand of S or dP
      (key_warp ? s_v : s_k) + SmemKv::offset(pair * Tile::kWarpRows + mk.row, mk.chunk);
  const uint32_t at_nk = SmemQ::offset(nk.row, nk.chunk);
  const uint32_t at_kn = SmemQ::offset(kn.row, kn.chunk);
  const uint32_t own_ds = s_ds + pair * Tile::kWarpRows * SmemDs::kPitch;

  float acc[kRows16][kD / 8][4] = {};  // dV of a value warp, dK of a key warp
  uint32_t resident[kRows16][Tile::kResident ? kD / 16 : 1][4];

  for (int i = 0;; ++i) {
    // Issues the loads of query block `n` and builds its mask.
    const auto start = [&](int n) {
      const QueryBlock block = walk.ring[n & 3];
      if (block.head >= 0) {
        const int stage = n % Tile::kStages;
        const int64_t row = walk.q_begin + block.m0;
        load_rows<SmemQ, Tile::kThreads>(
            s_q + stage * Tile::kQBytes,
            static_cast<const T*>(p.q.data) + row * p.q.row_stride + block.head * p.q.head_stride,
            p.q.row_stride, walk.q_len - block.m0);
        load_rows<SmemQ, Tile::kThreads>(
            s_do + stage * Tile::kQBytes,
            static_cast<const T*>(p.d_o.data) + row * p.d_o.row_stride +
                block.head * p.d_o.head_stride,
            p.d_o.row_stride, walk.q_len - block.m0);
        if (block.partial) build_mask<Tile>(p.mask, walk, block.m0, masks + (n & 1) * Tile::kMaskWords);
      }
      cp_async_commit();
    };
    if (Tile::kStages == 1) {
      __syncthreads();
      start(i);
    } else if (i == 0) {
      start(0);
    }
    cp_async_wait<0>();
    __syncthreads();
    const QueryBlock block = walk.ring[i & 3];
    if (Tile::kStages == 2 && block.head >= 0) start(i + 1);

    const uint32_t q = s_q + i % Tile::kStages * Tile::kQBytes;
    const uint32_t d_o = s_do + i % Tile::kStages * Tile::kQBytes;
    const uint32_t ds = (i & 1) * Tile::kDsBytes;
    if constexpr (Tile::kResident) {
      if (i == 0) {
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
#pragma unroll
          for (int k = 0; k < kD / 16; ++k) {
            ldmatrix_x4(resident[r][k], (own_rows ^ (k * 32)) + r * 16 * SmemKv::kPitch);
          }
        }
      }
    }
    if (!key_warp) {
      if (block.head < 0) break;
      float s[kRows16][kM / 8][4] = {};
      if constexpr (kHasRab) load_rab<Tile, T>(s, p.rab, walk, block, n0 + pair * Tile::kWarpRows);
      product_nt<T, SmemQ, kRows16, kM / 8, Tile::kResident>(s, own_rows, q + at_nk, resident);
      uint32_t probs[kRows16][kM / 16][4];
      const uint32_t out = own_ds + ds + lane * 16;
      if (block.partial) {
        silu<T, true>(s, probs, out, 0.5f * p.alpha,
                      masks + (i & 1) * Tile::kMaskWords + pair * Tile::kWarpRows / 32 * kM,
                      pair * Tile::kWarpRows % 32);
      } else {
        silu<T, false>(s, probs, out, 0.5f * p.alpha, nullptr, 0);
      }
      barrier_arrive(1 + pair, 64);
      product_rn<T, SmemQ>(acc, probs, d_o + at_kn);
      if (warp == 0 && walk.ring[(i + 1) & 3].head >= 0) advance<kM>(p, walk, (i + 2) & 3);
    } else {
      if (i > 0) {
        add_dq<Tile, T, kHasDrab>(args, walk, walk.ring[(i - 1) & 3],
                                  s_ds + (Tile::kDsBytes - ds), s_k, pair);
      }
      if (block.head < 0) break;
      float dp[kRows16][kM / 8][4] = {};
      product_nt<T, SmemQ, kRows16, kM / 8, Tile::kResident>(dp, own_rows, d_o + at_nk, resident);
      barrier_sync(1 + pair, 64);
      uint32_t grad[kRows16][kM / 16][4];
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
#pragma unroll
        for (int j = 0; j < kM / 16; ++j) {
          const uint4 dsilu = ld_shared(own_ds + ds + lane * 16 + (r * (kM / 16) + j) * 512);
          const uint32_t d[4] = {dsilu.x, dsilu.y, dsilu.z, dsilu.w};
#pragma unroll
          for (int f = 0; f < 4; ++f) {
            const float2 v = unpack<T>(d[f]);
            const float* at = &dp[r][2 * j + f / 2][f % 2 * 2];
            grad[r][j][f] = pack<T>(at[0] * kBwdScale<T> * v.x, at[1] * kBwdScale<T> * v.y);
          }
        }
      }
      __syncwarp();  // the fragments are read: dS takes their place
      const uint32_t to = own_ds + ds + SmemDs::offset(lane / 4, 0) + lane % 4 * 4;
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
#pragma unroll
        for (int j = 0; j < kM / 16; ++j) {
#pragma unroll
          for (int f = 0; f < 4; ++f) {
            st_shared((to ^ ((2 * j + f / 2) * 16)) + (r * 16 + f % 2 * 8) * SmemDs::kPitch,
                      grad[r][j][f]);
          }
        }
      }
      product_rn<T, SmemQ>(acc, grad, q + at_kn);
    }
  }

  // dV through the rows of V, dK through the rows of K once no warp reads them any more.
  const int row0 = pair * Tile::kWarpRows;
  const Rows& rows = key_warp ? p.dk : p.dv;
  const float scale = (key_warp ? 0.5f * p.alpha : 1.0f) * p.inv_n / kBwdScale<T>;
  if (key_warp) barrier_sync(Tile::kPairs + 1, Tile::kPairs * 32);
  store_rows<Tile, T>(acc, scale, key_warp ? s_k : s_v, row0,
                      static_cast<T*>(rows.data) + (k_begin + n0) * rows.row_stride +
                          head_k * rows.head_stride,
                      rows.row_stride, k_len - n0);
}

// dQ from the accumulators: one CUDA block per (block of queries, head).
template <class Tile, class T>
__global__ __launch_bounds__(Tile::kPairs * 32) void bwd_convert_dq(
    const __grid_constant__ BwdArgs args) {
  using Smem = SmemTile<Tile::kBlockM, Tile::kHeadDim>;
  constexpr int kTiles8 = Tile::kDqCols / 8, kRows16 = Tile::kDqRows / 16;
  __shared__ __align__(1024) unsigned char smem[Smem::kBytes];
  const uint32_t tile = smem_address(smem);
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

  const int lane = threadIdx.x % 32, pair = threadIdx.x / 32;
  const int warp_m = pair / Tile::kDqWarpsD, warp_d = pair % Tile::kDqWarpsD;
  const float scale = 0.5f * p.alpha * p.inv_n / kBwdScale<T>;
  const float* in = args.dq + blockIdx.x * static_cast<int64_t>(Tile::kBlockM * Tile::kHeadDim) +
                    pair * Tile::kDqRegs * 32 + lane;
#pragma unroll
  for (int pass = 0; pass < Tile::kDqPasses; ++pass) {
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int t = 0; t < kTiles8; ++t) {
        const float* at =
            in + (pass * Tile::kPairs * Tile::kDqRegs + (r * kTiles8 + t) * 4) * 32;
        const int chunk = (pass * Tile::kDqWarpsD + warp_d) * kTiles8 + t;
        const int row = warp_m * Tile::kDqRows + r * 16 + lane / 4;
        st_shared(tile + Smem::offset(row, chunk) + lane % 4 * 4,
                  pack<T>(at[0] * scale, at[32] * scale));
        st_shared(tile + Smem::offset(row + 8, chunk) + lane % 4 * 4,
                  pack<T>(at[64] * scale, at[96] * scale));
      }
    }
  }
  __syncthreads();
  T* out = static_cast<T*>(p.dq.data) + (q_begin + m0) * p.dq.row_stride + head * p.dq.head_stride;
  for (int i = threadIdx.x; i < Tile::kBlockM * Smem::kChunks; i += Tile::kPairs * 32) {
    const int row = i / Smem::kChunks, chunk = i % Smem::kChunks;
    if (m0 + row < q_len) {
      *reinterpret_cast<uint4*>(out + row * p.dq.row_stride + chunk * kChunkElems) =
          ld_shared(tile + Smem::offset(row, chunk));
    }
  }
}

}  // namespace hstu
