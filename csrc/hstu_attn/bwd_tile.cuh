// File: bwd_tile.cuh
//
// The steps that both backward kernels are made of: a tile's copy, the products of S, dP, dV, dK
// and dQ, the bias and its gradient, SiLU with its derivative, and a tile's way out.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/portable.h"
#include "csrc/common/sm80_tile.cuh"
#include "csrc/common/warp.cuh"
#include "csrc/hstu_attn/bwd_traits.h"
#include "csrc/hstu_attn/bwd_walk.cuh"
#include "csrc/hstu_attn/hstu.h"

namespace accel::hstu {

constexpr int kMmaBytes = 2 * kChunkBytes;               // sixteen values of a row: one product's
constexpr int kFragmentBytes = kWarpSize * kChunkBytes;  // an A fragment of all lanes

// Starts the copy of rows [0, valid) of a tile and of zeros for the rest, by kThreads threads of
// which this is number `thread`. kOnce: nobody reads them again.
template <class Tile, int kThreads, bool kOnce = false, class Element>
__device__ __forceinline__ void LoadRows(uint32_t dst, const Element* src, int64_t stride,
                                         int valid, int thread) {
  constexpr int kRowsPerPass = kThreads / Tile::kChunks;
  constexpr int kPasses = Tile::kRows / kRowsPerPass;
  static_assert(kThreads % Tile::kChunks == 0 && Tile::kRows % kRowsPerPass == 0, "whole passes");
  asm volatile("" : "+r"(thread));  // addresses are computed afresh: registers are scarce
  const int row = thread / Tile::kChunks, chunk = thread % Tile::kChunks;
  // 32-bit products: a row of a tile lies less than 2^31 elements behind its first one.
  const Element* at = src + row * static_cast<int32_t>(stride) + chunk * kChunkElems;
  const uint32_t to = dst + Tile::Offset(row, chunk);
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    (kOnce ? CpAsyncOnce : CpAsync)(
        (to ^ (i * kRowsPerPass % 8 * kChunkBytes)) + i * kRowsPerPass * Tile::kPitch, at,
        row + i * kRowsPerPass < valid ? kChunkBytes : 0);
    at += kRowsPerPass * static_cast<int32_t>(stride);
  }
}

// The first of the rows of a head from `row` on.
template <class Element>
__device__ __forceinline__ Element* RowAt(const Rows& rows, int64_t row, int head) {
  return static_cast<Element*>(rows.data) + row * rows.row_stride + head * rows.head_stride;
}

// C (kRows16 * 16, kTiles8 * 8) = A B^T with A (rows, k) and B (cols, k) in shared memory; `a`
// and `b` are this lane's addresses (LaneMk, LaneNk). kResident: the A fragments are given.
template <class Element, class Tile, bool kResident, int kRows16, int kTiles8, int kFragments>
__device__ __forceinline__ void ProductNt(float (&c)[kRows16][kTiles8][4], uint32_t a, uint32_t b,
                                          const uint32_t (&given)[kRows16][kFragments][4]) {
#pragma unroll
  for (int k = 0; k < Tile::kCols / 16; ++k) {
    uint32_t fa[kRows16][4];
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
      if constexpr (kResident) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fa[r][i] = given[r][k][i];
      } else {
        LdMatrixX4(fa[r], (a ^ (k * kMmaBytes)) + r * 16 * Tile::kPitch);
      }
    }
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      LdMatrixX4(fb, (b ^ (k * kMmaBytes)) + t * 16 * Tile::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        Mma<Element>(c[r][2 * t], fa[r], fb[0], fb[1]);
        Mma<Element>(c[r][2 * t + 1], fa[r], fb[2], fb[3]);
      }
    }
  }
}

// C (kRows16 * 16, kTiles8 * 8) += A B with A in registers and B (k, cols) in shared memory; `b` is
// this lane's address (LaneKn).
template <class Element, class Tile, int kRows16, int kTiles8, int kSteps>
__device__ __forceinline__ void ProductRn(float (&c)[kRows16][kTiles8][4],
                                          const uint32_t (&a)[kRows16][kSteps][4], uint32_t b) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int t = 0; t < kTiles8 / 2; ++t) {
      uint32_t fb[4];
      LdMatrixX4Trans(fb, (b ^ (t * kMmaBytes)) + k * 16 * Tile::kPitch);
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        Mma<Element>(c[r][2 * t], a[r][k], fb[0], fb[1]);
        Mma<Element>(c[r][2 * t + 1], a[r][k], fb[2], fb[3]);
      }
    }
  }
}

__device__ __forceinline__ void AddGlobal(float* to, float value) {
  asm volatile("red.global.add.f32 [%0], %1;\n" ::"l"(to), "f"(value) : "memory");
}

// Writes two neighbouring values (m, n), (m, n + 1) of dRab.
template <class Element>
__device__ __forceinline__ void StoreDrab(const BwdArgs& args, const BwdSequence& w, Element* drab,
                                          int m, int n, uint32_t ds, float scale) {
  if (m >= w.q_len || n >= w.mask.k_len) return;
  const float2 v = Unpack<Element>(ds);
  const uint32_t both = Pack<Element>(v.x * scale, v.y * scale);
  Element* at = drab + (m + w.off) * args.p.drab.row_stride + n;
  if (args.drab_by_pairs && n + 1 < w.mask.k_len) {
    *reinterpret_cast<uint32_t*>(at) = both;
  } else {
    reinterpret_cast<uint16_t*>(at)[0] = static_cast<uint16_t>(both);
    if (n + 1 < w.mask.k_len)
      reinterpret_cast<uint16_t*>(at)[1] = static_cast<uint16_t>(both >> 16);
  }
}

// This warp's part of a query block's dQ (its rows and its columns of one pass), and where it goes.
template <class Traits>
struct DqPart {
  using Element = typename Traits::Element;
  using KvTile = typename Traits::KvTile;
  using DsTile = typename Traits::DsTile;
  static constexpr int kRows16 = Traits::kDqRows / 16, kTiles8 = Traits::kDqCols / 8;

  float dq[kRows16][kTiles8][4];
  float* out;  // this lane's first sum

  __device__ __forceinline__ float& at(int i) {
    return dq[i / (4 * kTiles8)][i / 4 % kTiles8][i % 4];
  }

  // The accumulators of a query block, of all warps.
  __device__ __forceinline__ static float* Sums(const BwdArgs& args, int64_t slot) {
    return args.dq + slot * (Traits::kBlockM * Traits::kHeadDim);
  }

  __device__ __forceinline__ void Add() {
#pragma unroll
    for (int i = 0; i < Traits::kDqRegs; ++i) AddGlobal(out + i * kWarpSize, at(i));
  }

  // = dS K. dS and K lie at `ds` and `k`; the sums of the query block are number `slot`.
  __device__ __forceinline__ void Product(const BwdArgs& args, const BwdSequence& w,
                                          const QueryBlock& block, int slot, uint32_t ds,
                                          uint32_t k, int pass) {
    const int lane = threadIdx.x % kWarpSize;
    // The key warps are the upper half.
    const int warp = threadIdx.x / kWarpSize % Traits::kDqWarps;
    const int warp_m = warp / Traits::kDqWarpsD, warp_d = warp % Traits::kDqWarpsD;
    const int col0 = (warp_d * Traits::kDqPasses + pass) * Traits::kDqCols;
    const LanePos at_ds = LaneKm(lane), at_k = LaneKn(lane);
    const uint32_t a =
        ds + (DsTile::Offset(at_ds.row, at_ds.chunk) ^ (warp_m * Traits::kDqRows * 2));
    const uint32_t b = k + (KvTile::Offset(at_k.row, at_k.chunk) ^ (col0 * 2));
#pragma unroll
    for (int i = 0; i < Traits::kDqRegs; ++i) at(i) = 0.0f;
#pragma unroll
    for (int n = 0; n < Traits::kBlockN / 16; ++n) {
      uint32_t fa[kRows16][4];
#pragma unroll
      for (int r = 0; r < kRows16; ++r) {
        LdMatrixX4Trans(fa[r], (a ^ (r * kMmaBytes)) + n * 16 * DsTile::kPitch);
      }
      if constexpr (Traits::kHasDrab) {
        if (pass == 0 && n % Traits::kDqWarpsD == warp_d) {
          StoreBiasGradient(args, w, block, warp_m * Traits::kDqRows, n * 16, fa);
        }
      }
#pragma unroll
      for (int t = 0; t < kTiles8 / 2; ++t) {
        uint32_t fb[4];
        LdMatrixX4Trans(fb, (b ^ (t * kMmaBytes)) + n * 16 * KvTile::kPitch);
#pragma unroll
        for (int r = 0; r < kRows16; ++r) {
          Mma<Element>(dq[r][2 * t], fa[r], fb[0], fb[1]);
          Mma<Element>(dq[r][2 * t + 1], fa[r], fb[2], fb[3]);
        }
      }
    }
    out = Sums(args, slot) + (warp * Traits::kDqPasses + pass) * Traits::kDqRegs * kWarpSize + lane;
  }

 private:
  // dRab of the A fragments `ds` of dS: queries from m on of the block, keys from n on.
  __device__ __forceinline__ static void StoreBiasGradient(const BwdArgs& args,
                                                           const BwdSequence& w,
                                                           const QueryBlock& block, int m, int n,
                                                           const uint32_t (&ds)[kRows16][4]) {
    const BwdParams& p = args.p;
    const int lane = threadIdx.x % kWarpSize;
    const float scale = p.alpha * p.inv_n * 0.5f / Traits::kScale;
    Element* drab = static_cast<Element*>(p.drab.data) + w.seq * p.drab.batch_stride +
                    block.head * p.drab.head_stride;
#pragma unroll
    for (int r = 0; r < kRows16; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        StoreDrab<Element>(args, w, drab, block.m0 + m + r * 16 + lane / 4 + i % 2 * 8,
                           w.n0 + n + lane % 4 * 2 + i / 2 * 8, ds[r][i], scale);
      }
    }
  }
};

// S starts from rab instead of 0.
template <class Element, int kRows16, int kTiles8>
__device__ __forceinline__ void LoadRab(float (&s)[kRows16][kTiles8][4], const Rab& rab,
                                        const BwdSequence& w, int head, int m_warp, int n_warp) {
  const int lane = threadIdx.x % kWarpSize;
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
          s[r][t][low * 2 + odd] = Unpack<Element>(bits).x;
        }
      }
    }
  }
}

// Half a score of a pair that the mask hides: SiLU and its derivative are 0 far below 0.
constexpr float kHiddenHalf = -1e4f;

// SiLU(2h), and twice its derivative there.
struct SiluAndSlope {
  float silu, slope;
};
__device__ __forceinline__ SiluAndSlope SiluAndSlopeOfHalf(float h) {
  const float t = TanhApprox(h);
  const float up = 1.0f + t;
  const float silu = h * up;
  return {silu, fmaf(silu, 1.0f - t, up)};
}

// Stages this warp's (kWarpRows, kWarpD) sums in its part of a tile and writes the rows < valid.
// kOnce: they leave the L2 cache before other data does.
template <class Traits, bool kOnce = false, int kRows16, int kTiles8>
__device__ __forceinline__ void StoreRows(const float (&acc)[kRows16][kTiles8][4], float scale,
                                          uint32_t smem, int row0, int chunk0,
                                          typename Traits::Element* out, int64_t row_stride,
                                          int valid) {
  using Tile = typename Traits::KvTile;
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int r = 0; r < kRows16; ++r) {
#pragma unroll
    for (int t = 0; t < kTiles8; ++t) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        StoreShared(
            smem + Tile::Offset(row0 + r * 16 + low * 8 + lane / 4, chunk0 + t) + lane % 4 * 4,
            Pack<typename Traits::Element>(acc[r][t][low * 2] * scale,
                                           acc[r][t][low * 2 + 1] * scale));
      }
    }
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < Traits::kWarpRows * kTiles8; i += kWarpSize) {
    const int row = row0 + i / kTiles8, chunk = chunk0 + i % kTiles8;
    const uint4 v = LoadShared(smem + Tile::Offset(row, chunk));
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

}  // namespace accel::hstu
