// File: fwd_kernel.cuh
//
// The forward kernel: O = sum over visible j of SiLU(alpha (q_i . k_j + rab_ij)) v_j / N.
//
// There is no softmax, hence no state beside O. Per tile of keys a lane classifies 32 tiles at once
// (empty tiles are skipped, full ones take no mask); inside a partial tile every lane builds the
// visibility of one row as a 32-bit word per chunk, which covers all masks alike, and chunks that a
// warp's rows do not see are skipped. Keys past the end are zeros in shared memory: S = 0 gives
// SiLU(S) = 0, so the ragged end takes no mask either.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/fwd_traits.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask.h"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/tile.cuh"

namespace hstu {

struct FwdArgs {
  FwdParams p;
  Schedule schedule;
  float half_alpha = 0.5f;
  bool rab_aligned = false;  // its rows can be copied 16 bytes at a time
};

// Intervals of `func` that are summarised one by one; later ones share the last summary.
constexpr int kFuncSummaries = 32;
constexpr int kMaxWarps = 8;

// The least and the greatest ends of one interval of `func` over the rows of a block.
struct FuncSummary {
  int32_t lo_min, lo_max, hi_min, hi_max;
};

// A warp's walk over the tiles that are not empty: bits of the tiles base .. base + 31 not yet taken.
struct TileWalk {
  int32_t base;
  uint32_t some, full;
};

// What a block's threads need now and then, kept in shared memory to keep it out of registers.
struct FwdControl {
  SeqMask mask;
  int64_t rab_offset;  // of this sequence and head
  int32_t head, head_k;
  int32_t rows;       // query rows of this block
  int32_t first_row;  // absolute index of the first, = the first row of rab
  int32_t q_row;      // its packed index in q
  int32_t k_row;      // packed index in k and v of column 0
  int32_t paged_end;  // columns before this one lie in pages
  int32_t page_base;  // of this sequence in page_ids
  TileWalk walk[kMaxWarps];
  FuncSummary func[kFuncSummaries];
};

// Bits 0..x-1, for any x.
__device__ __forceinline__ uint32_t bits_below(int x) {
  return x >= 32 ? ~0u : ~(~0u << SeqMask::greater(x, 0));
}

// Bits of the columns lo <= j < hi, bit 0 being column n.
__device__ __forceinline__ uint32_t bits_between(int lo, int hi, int n) {
  return bits_below(hi - n) & ~bits_below(lo - n);
}

// The visible columns n..n+31 of row `row` of the block.
__device__ __forceinline__ uint32_t visible_bits(const MaskParams& p, const FwdControl& c, int row,
                                                 int n) {
  if (row >= c.rows) return 0;
  if (kWithArbitrary && p.func != nullptr) {
    const int32_t* f = p.func + c.q_row + row;
    uint32_t bits = 0;
    int lo = 0;
    for (int i = 0; i < p.n_func; i += 2) {
      if (i > 0) lo = f[(i - 1) * p.func_stride];
      bits |= bits_between(lo, f[i * p.func_stride], n);
    }
    return bits & bits_below(c.mask.k_len - n);
  }
  const RowSpan s = c.mask.row(c.first_row + row);
  return bits_between(s.begin, s.hist, n) | bits_between(s.group, s.end, n);
}

__device__ __forceinline__ void summarise_func(const MaskParams& p, FwdControl& c) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;
  const int intervals = (p.n_func + 1) / 2;
  for (int i = warp; i < SeqMask::lesser(intervals, kFuncSummaries); i += warps) {
    FuncSummary s = {INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN};
    const bool shared = i == kFuncSummaries - 1 && intervals > kFuncSummaries;
    for (int n = i; n < (shared ? intervals : i + 1); ++n) {
      for (int row = lane; row < c.rows; row += kWarpSize) {
        const int32_t* f = p.func + c.q_row + row;
        const int lo = n == 0 ? 0 : f[(2 * n - 1) * p.func_stride];
        const int hi = f[2 * n * p.func_stride];
        s = {min(s.lo_min, lo), max(s.lo_max, lo), min(s.hi_min, hi), max(s.hi_max, hi)};
      }
    }
    s.lo_min = __reduce_min_sync(~0u, s.lo_min);
    s.lo_max = shared ? INT32_MAX : __reduce_max_sync(~0u, s.lo_max);
    s.hi_min = __reduce_min_sync(~0u, s.hi_min);
    s.hi_max = __reduce_max_sync(~0u, s.hi_max);
    if (lane == 0) c.func[i] = s;
  }
}

// How the block's rows stand to the columns [n0, n1); kPartial where it is not known.
__device__ __forceinline__ TileKind classify(const MaskParams& p, const FwdControl& c, int n0,
                                             int n1) {
  if (kWithArbitrary && p.func != nullptr) {
    bool any = false, all = false;
    for (int i = 0; i < SeqMask::lesser((p.n_func + 1) / 2, kFuncSummaries); ++i) {
      const FuncSummary s = c.func[i];
      any |= s.lo_min < n1 && s.hi_max > n0;
      all |= s.lo_max <= n0 && s.hi_min >= n1;
    }
    return !any ? TileKind::kEmpty : all ? TileKind::kFull : TileKind::kPartial;
  }
  if (c.first_row < 0) return TileKind::kPartial;  // more rows than keys
  return c.mask.tile(c.first_row, c.first_row + c.rows, n0, n1);
}

// The next tile that is not empty: 2 * tile + (the tile is full), or -1 at the end. A lane classifies
// one of 32 tiles at a time. Every warp walks on its own, and alike.
template <int kBlockN>
__device__ __forceinline__ int next_tile(const MaskParams& p, FwdControl& c) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  TileWalk walk = c.walk[warp];
  while (walk.some == 0) {
    const int k_len = c.mask.k_len;
    const int begin = walk.base + kWarpSize;
    if (begin * kBlockN >= k_len) return -1;
    const int n0 = (begin + lane) * kBlockN;
    const TileKind kind =
        n0 < k_len ? classify(p, c, n0, SeqMask::lesser(n0 + kBlockN, k_len)) : TileKind::kEmpty;
    walk = {begin, __ballot_sync(~0u, kind != TileKind::kEmpty),
            __ballot_sync(~0u, kind == TileKind::kFull)};
  }
  const int bit = __ffs(walk.some) - 1;
  walk.some &= walk.some - 1;
  __syncwarp();
  if (lane == 0) c.walk[warp] = walk;
  __syncwarp();
  return 2 * (walk.base + bit) + static_cast<int>((walk.full >> bit) & 1);
}

// threadIdx.x, read anew: what the copies derive from it must not live in registers from tile to tile.
__device__ __forceinline__ int thread_index() {
  int i;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(i));
  return i;
}

// Copies rows [0, kRows) of a (rows, kCols) matrix into a tile; rows from `valid` on become zeros.
template <class SmemTile, int kThreads>
__device__ __forceinline__ void load_rows(uint32_t dst, const uint16_t* src, int64_t row_stride,
                                          int valid) {
  constexpr int kRowsPerPass = kThreads / SmemTile::kChunks;
  static_assert(SmemTile::kRows % kRowsPerPass == 0, "whole passes");
  const int thread = thread_index();
  const int chunk = thread % SmemTile::kChunks, first = thread / SmemTile::kChunks;
  src += first * row_stride + chunk * kChunkElems;
#pragma unroll
  for (int i = 0; i < SmemTile::kRows / kRowsPerPass; ++i) {
    const int row = first + i * kRowsPerPass;
    const bool in = row < valid;
    cp_async(dst + SmemTile::offset(row, chunk), in ? src + i * kRowsPerPass * row_stride : src,
             in ? kChunkBytes : 0);
  }
}

template <class Traits>
struct FwdBlock {
  using Element = typename Traits::Element;
  using QTile = typename Traits::QTile;
  using KvTile = typename Traits::KvTile;
  using RabTile = typename Traits::RabTile;
  static constexpr int kThreads = Traits::kThreads;
  static constexpr int kBlockM = Traits::kBlockM;
  static constexpr int kBlockN = Traits::kBlockN;
  static constexpr int kChunkN = Traits::kChunkN;
  static constexpr int kWarpRows = Traits::kWarpRows;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kMmaM = Traits::kMmaM;
  static constexpr int kMmaN = Traits::kMmaN;
  static constexpr int kMmaK = Traits::kMmaK;
  static constexpr int kWords = kChunkN / 32;

  // Loads the K and V tiles that start at column n0.
  __device__ __forceinline__ static void load_kv(const FwdParams& p, const FwdControl& c,
                                                 uint32_t k_dst, uint32_t v_dst, int n0) {
    const int valid = c.mask.k_len - n0;
    const int64_t row = c.k_row + n0;
    const uint16_t* k = static_cast<const uint16_t*>(p.k.data) + c.head_k * p.k.head_stride;
    const uint16_t* v = static_cast<const uint16_t*>(p.v.data) + c.head_k * p.v.head_stride;
    if (n0 >= c.paged_end) {
      load_rows<KvTile, kThreads>(k_dst, k + row * p.k.row_stride, p.k.row_stride, valid);
      load_rows<KvTile, kThreads>(v_dst, v + row * p.v.row_stride, p.v.row_stride, valid);
      return;
    }
    constexpr int kRowsPerPass = kThreads / KvTile::kChunks;
    const int thread = thread_index();
    const int chunk = thread % KvTile::kChunks, first = thread / KvTile::kChunks;
    const uint16_t* pages = static_cast<const uint16_t*>(p.kv.data) + c.head_k * p.kv.head_stride;
#pragma unroll 2
    for (int i = 0; i < kBlockN / kRowsPerPass; ++i) {
      const int r = first + i * kRowsPerPass, j = n0 + r;
      const uint16_t* k_src = k + (row + r) * p.k.row_stride;
      const uint16_t* v_src = v + (row + r) * p.v.row_stride;
      if (j < c.paged_end) {
        const uint32_t page = static_cast<uint32_t>(j) / p.kv.page_size;
        const uint32_t slot = j - page * p.kv.page_size;
        k_src = pages + p.kv.page_ids[c.page_base + page] * p.kv.page_stride +
                slot * p.kv.slot_stride;
        v_src = k_src + p.kv.kv_stride;
      }
      const int bytes = r < valid ? kChunkBytes : 0;
      const uint32_t offset = KvTile::offset(r, chunk);
      cp_async(k_dst + offset, bytes ? k_src + chunk * kChunkElems : pages, bytes);
      cp_async(v_dst + offset, bytes ? v_src + chunk * kChunkElems : pages, bytes);
    }
  }

  // Loads the rab tile of the block's rows and the columns from n0 on.
  __device__ __forceinline__ static void load_rab(const FwdArgs& args, const FwdControl& c,
                                                  uint32_t dst, int n0) {
    constexpr int kRowsPerPass = kThreads / RabTile::kChunks;
    const int thread = thread_index();
    const int chunk = thread % RabTile::kChunks, first = thread / RabTile::kChunks;
    const int col = n0 + chunk * kChunkElems;
    const int cols = SeqMask::greater(0, SeqMask::lesser(c.mask.k_len - col, kChunkElems));
    const uint16_t* rab = static_cast<const uint16_t*>(args.p.rab.data) + c.rab_offset +
                          c.first_row * args.p.rab.row_stride + col;
    if (args.rab_aligned) {
#pragma unroll
      for (int i = 0; i < kBlockM / kRowsPerPass; ++i) {
        const int row = first + i * kRowsPerPass;
        const bool in = row < c.rows && c.first_row + row >= 0 && cols > 0;
        cp_async(dst + RabTile::offset(row, chunk), in ? rab + row * args.p.rab.row_stride : rab,
                 in ? 2 * cols : 0);
      }
      return;
    }
#pragma unroll 1
    for (int row = first; row < kBlockM; row += kRowsPerPass) {
      const bool in = row < c.rows && c.first_row + row >= 0;
      const uint16_t* src = rab + row * args.p.rab.row_stride;
      uint32_t w[kChunkElems / 2];
#pragma unroll
      for (int e = 0; e < kChunkElems; e += 2) {
        const uint32_t lo = in && e < cols ? src[e] : 0, hi = in && e + 1 < cols ? src[e + 1] : 0;
        w[e / 2] = lo | hi << 16;
      }
      st_shared(dst + RabTile::offset(row, chunk), uint4{w[0], w[1], w[2], w[3]});
    }
  }

  __device__ __forceinline__ static void run(const FwdArgs& args, unsigned char* smem) {
    const FwdParams& p = args.p;
    FwdControl& c = *reinterpret_cast<FwdControl*>(smem + Traits::kControlOffset);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const uint32_t base = smem_address(smem);

    {
      const ScheduledWork work = scheduled_work(args.schedule, blockIdx.x);
      if (work.block < 0) return;
      const int q0 = p.cu_seqlens_q[work.seq], q_len = p.cu_seqlens_q[work.seq + 1] - q0;
      const int k0 = p.cu_seqlens_k[work.seq], k_len = p.cu_seqlens_k[work.seq + 1] - k0;
      const int m0 = work.block * kBlockM;
      if (m0 >= q_len) return;
      if (threadIdx.x == 0) {
        c.mask = seq_mask(p.mask, work.seq, k_len);
        c.rab_offset = work.seq * p.rab.batch_stride + work.head * p.rab.head_stride;
        c.head = work.head;
        c.head_k = work.head / (p.heads / p.heads_k);
        c.rows = SeqMask::lesser(q_len - m0, kBlockM);
        c.first_row = m0 + k_len - q_len;
        c.q_row = q0 + m0;
        const bool paged = p.kv.data != nullptr;
        c.k_row = paged ? q0 + q_len - k_len : k0;
        c.paged_end = paged ? c.mask.hist_end : 0;
        c.page_base = paged ? p.kv.page_offsets[work.seq] : 0;
      }
      if (lane == 0) c.walk[warp] = {-kWarpSize, 0, 0};
      __syncthreads();
      if (kWithArbitrary && p.mask.func != nullptr) {
        summarise_func(p.mask, c);
        __syncthreads();
      }
    }

    float o[kMmaM][kHeadDim / 8][4];  // C fragments of (kWarpRows, kHeadDim)
#pragma unroll
    for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[m][n][e] = 0.0f;
      }
    }

    // ahead[s]: the tile that is s steps away, in stage (stage + s) % kStages.
    int ahead[Traits::kStages];
    ahead[0] = next_tile<kBlockN>(p.mask, c);

    if (ahead[0] >= 0) {
      const uint32_t q_lane =
          base + QTile::offset(warp * kWarpRows + lane_mk(lane).row, lane_mk(lane).chunk);
      uint32_t q[Traits::kQInRegs ? kMmaK : 1][kMmaM][4];  // A fragments of (kWarpRows, kHeadDim)
      load_rows<QTile, kThreads>(base,
                                 static_cast<const uint16_t*>(p.q.data) +
                                     c.q_row * p.q.row_stride + c.head * p.q.head_stride,
                                 p.q.row_stride, c.rows);
      if constexpr (Traits::kShareQ) {
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        load_q(q, q_lane);
        __syncthreads();
      }
#pragma unroll
      for (int s = 0; s < Traits::kStages - 1; ++s) {
        if (s > 0) ahead[s] = ahead[s - 1] < 0 ? -1 : next_tile<kBlockN>(p.mask, c);
        load_stage(args, c, base, s, ahead[s]);
      }
      if constexpr (Traits::kQInRegs && !Traits::kShareQ) {
        cp_async_wait<Traits::kStages - 2>();
        __syncthreads();
        load_q(q, q_lane);
      }

      int stage = 0;
#pragma unroll 1
      while (ahead[0] >= 0) {
        cp_async_wait<Traits::kStages - 2>();
        __syncthreads();  // tile ahead[0] has come; nobody reads the stage before it any more
        constexpr int kLast = Traits::kStages - 1;
        ahead[kLast] = ahead[kLast - 1] < 0 ? -1 : next_tile<kBlockN>(p.mask, c);
        load_stage(args, c, base, stage == 0 ? kLast : stage - 1, ahead[kLast]);
        compute(args, c, base, q_lane, stage, ahead[0], q, o);
#pragma unroll
        for (int s = 0; s < kLast; ++s) ahead[s] = ahead[s + 1];
        stage = stage == kLast ? 0 : stage + 1;
      }
    }
    cp_async_wait<0>();
    // The output is staged where Q was. Unshared, those are rows that only this warp reads.
    if (Traits::kShareQ) __syncthreads();
    store(p, c, base, o);
  }

  __device__ __forceinline__ static void load_q(uint32_t (&q)[kMmaK][kMmaM][4], uint32_t q_lane) {
#pragma unroll
    for (int k = 0; k < kMmaK; ++k) {
#pragma unroll
      for (int m = 0; m < kMmaM; ++m) {
        ldmatrix_x4(q[k][m], (q_lane ^ (k * 2 * kChunkBytes)) + m * 16 * QTile::kPitch);
      }
    }
  }

  // Enqueues the copies of one tile (none when tile_code < 0) as one group.
  __device__ __forceinline__ static void load_stage(const FwdArgs& args, const FwdControl& c,
                                                    uint32_t base, int stage, int tile_code) {
    if (tile_code >= 0) {
      const int n0 = (tile_code >> 1) * kBlockN;
      load_kv(args.p, c, base + Traits::kKOffset + stage * KvTile::kBytes,
              base + Traits::kVOffset + stage * KvTile::kBytes, n0);
      if constexpr (Traits::kHasRab) {
        load_rab(args, c, base + Traits::kRabOffset + stage * RabTile::kBytes, n0);
      }
    }
    cp_async_commit();
  }

  // o += SiLU(alpha (q k^T + rab)) v over one tile.
  template <int kQ>
  __device__ __forceinline__ static void compute(const FwdArgs& args, const FwdControl& c,
                                                 uint32_t base, uint32_t q_lane, int stage,
                                                 int tile_code, uint32_t (&q)[kQ][kMmaM][4],
                                                 float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const uint32_t k_lane = base + Traits::kKOffset + stage * KvTile::kBytes +
                      KvTile::offset(lane_nk(lane).row, lane_nk(lane).chunk);
    const uint32_t v_lane = base + Traits::kVOffset + stage * KvTile::kBytes +
                      KvTile::offset(lane_kn(lane).row, lane_kn(lane).chunk);
    const uint32_t rab_lane =
        base + Traits::kRabOffset + stage * RabTile::kBytes +
        RabTile::offset(warp * kWarpRows + lane_mk(lane).row, lane_mk(lane).chunk);
    const int n0 = (tile_code >> 1) * kBlockN;
    const bool full_tile = tile_code & 1;

#pragma unroll
    for (int chunk = 0; chunk < kBlockN / kChunkN; ++chunk) {
      const int n = n0 + chunk * kChunkN;
      const uint32_t k_chunk = k_lane + chunk * kChunkN * KvTile::kPitch;
      const uint32_t v_chunk = v_lane + chunk * kChunkN * KvTile::kPitch;
      uint32_t bits[kWords];
      bool masked = false;
      if (!full_tile) {
        uint32_t all = ~0u, some = 0;
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
          bits[w] = visible_bits(args.p.mask, c, warp * kWarpRows + lane % kWarpRows, n + 32 * w);
          all &= bits[w];
          some |= bits[w];
        }
        if (!__any_sync(~0u, some != 0)) continue;
        masked = !__all_sync(~0u, all == ~0u);
      }

      float s[kMmaM][kMmaN][4];  // C fragments of (kWarpRows, kChunkN)
#pragma unroll
      for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
        for (int nn = 0; nn < kMmaN; nn += 2) {
          if constexpr (Traits::kHasRab) {
            uint32_t r[4];
            ldmatrix_x4(r, (rab_lane ^ ((chunk * kChunkN + nn * 8) / kChunkElems * kChunkBytes)) +
                               m * 16 * RabTile::kPitch);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 f = unpack<Element>(r[i]);
              s[m][nn + i / 2][i % 2 * 2] = f.x;
              s[m][nn + i / 2][i % 2 * 2 + 1] = f.y;
            }
          } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) s[m][nn + i / 4][i % 4] = 0.0f;
          }
        }
      }

#pragma unroll
      for (int k = 0; k < kMmaK; ++k) {
        uint32_t qk[kMmaM][4];
        if constexpr (!Traits::kQInRegs) {
#pragma unroll
          for (int m = 0; m < kMmaM; ++m) {
            ldmatrix_x4(qk[m], (q_lane ^ (k * 2 * kChunkBytes)) + m * 16 * QTile::kPitch);
          }
        }
#pragma unroll
        for (int nn = 0; nn < kMmaN; nn += 2) {
          uint32_t b[4];
          ldmatrix_x4(b, (k_chunk ^ (k * 2 * kChunkBytes)) + nn * 8 * KvTile::kPitch);
#pragma unroll
          for (int m = 0; m < kMmaM; ++m) {
            const uint32_t(&a)[4] = Traits::kQInRegs ? q[Traits::kQInRegs ? k : 0][m] : qk[m];
            mma<Element>(s[m][nn], a, b[0], b[1]);
            mma<Element>(s[m][nn + 1], a, b[2], b[3]);
          }
        }
      }

      if (masked) {
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
#pragma unroll
          for (int r = 0; r < kWarpRows / 8; ++r) {
            const uint32_t row = __shfl_sync(~0u, bits[w], lane / 4 + 8 * r) >> (lane % 4 * 2);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
              float& x = s[r / 2][w * 4 + i / 2][r % 2 * 2 + i % 2];
              x = (row >> (i / 2 * 8 + i % 2)) & 1 ? x : 0.0f;
            }
          }
        }
      }

#pragma unroll
      for (int kk = 0; kk < kChunkN / 16; ++kk) {
        uint32_t a[kMmaM][4];  // A fragments of (kWarpRows, 16) of SiLU(S)
#pragma unroll
        for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* x = &s[m][2 * kk + i / 2][i % 2 * 2];
            a[m][i] = pack<Element>(silu_of_half(x[0] * args.half_alpha),
                                    silu_of_half(x[1] * args.half_alpha));
          }
        }
#pragma unroll
        for (int d = 0; d < kHeadDim / 16; ++d) {
          uint32_t b[4];
          ldmatrix_x4_trans(b, (v_chunk ^ (d * 2 * kChunkBytes)) + kk * 16 * KvTile::kPitch);
#pragma unroll
          for (int m = 0; m < kMmaM; ++m) {
            mma<Element>(o[m][2 * d], a[m], b[0], b[1]);
            mma<Element>(o[m][2 * d + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
  }

  // Writes this warp's rows of o / N, 16 bytes a lane, by way of shared memory.
  __device__ __forceinline__ static void store(const FwdParams& p, const FwdControl& c,
                                               uint32_t base,
                                               float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const float inv_n = p.inv_n;
#pragma unroll
    for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp * kWarpRows + m * 16 + half * 8 + lane / 4;
        const uint32_t to = base + QTile::offset(row, 0) + lane % 4 * 4;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          st_shared(to ^ (n * kChunkBytes),
                    pack<Element>(o[m][n][2 * half] * inv_n, o[m][n][2 * half + 1] * inv_n));
        }
      }
    }
    __syncwarp();
    constexpr int kRowsPerPass = kWarpSize / QTile::kChunks;
    const int chunk = lane % QTile::kChunks;
    uint16_t* dst = static_cast<uint16_t*>(p.o.data) + c.q_row * p.o.row_stride +
                    c.head * p.o.head_stride + chunk * kChunkElems;
#pragma unroll
    for (int i = 0; i < kWarpRows / kRowsPerPass; ++i) {
      const int row = warp * kWarpRows + i * kRowsPerPass + lane / QTile::kChunks;
      if (row < c.rows) {
        *reinterpret_cast<uint4*>(dst + row * p.o.row_stride) =
            ld_shared(base + QTile::offset(row, chunk));
      }
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    fwd_kernel(const __grid_constant__ FwdArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  FwdBlock<Traits>::run(args, smem);
}

}  // namespace hstu
