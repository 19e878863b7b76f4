// File: fwd_short.cuh
//
// The forward kernel for short sequences: a CUDA block takes one head of a whole sequence. All of
// Q, K and V is requested at once and waited for once. Then each warp takes strips of kWarpRows
// rows, and walks over the keys that they see without another barrier.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/fwd_kernel.cuh"
#include "csrc/hstu_attn/fwd_traits.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/tail.cuh"

namespace accel::hstu {

struct ShortArgs {
  FwdParams p;
  float half_alpha = 0.5f;
  int32_t group = 1;  // heads of q per head of k
  int32_t rows = 0;   // of each of k, v and q that shared memory has room for, a multiple of 32
};

template <class Traits>
struct ShortBlock {
  using Element = typename Traits::Element;
  using Block = FwdBlock<Traits, false>;
  using Tile = typename Traits::KvTile;  // of any number of rows
  static constexpr int kThreads = Traits::kThreads;
  static constexpr int kWarps = Traits::kWarps;
  static constexpr int kWarpRows = Traits::kWarpRows;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kMmaM = Traits::kMmaM;
  static constexpr int kMmaK = Traits::kMmaK;
  static constexpr int kPartN = Block::kPartN;
  static constexpr int kChunkN = Traits::kChunkN;

  // Requests the first `valid` rows of a matrix; puts zeros after them, up to a multiple of 32.
  __device__ __forceinline__ static void Request(uint32_t dst, const Rows& rows, int64_t row_0,
                                                 int head, int valid) {
    constexpr int kRowsPerPass = kThreads / Tile::kChunks;
    static_assert(kRowsPerPass % 8 == 0, "passes permute the chunks alike");
    const int chunk = threadIdx.x % Tile::kChunks;
    int row = threadIdx.x / Tile::kChunks;
    const char* from = Block::RowOf(rows, row_0 + row, head) + chunk * kChunkBytes;
    const int64_t step = 2 * kRowsPerPass * rows.row_stride;
    uint32_t to = dst + Tile::Offset(row, chunk);
#pragma unroll 4
    for (; row < valid; row += kRowsPerPass, to += kRowsPerPass * Tile::kPitch, from += step) {
      CpAsync(to, from, kChunkBytes);
    }
    const int end = (valid + kPartN - 1) / kPartN * kPartN;
#pragma unroll 1
    for (; row < end; row += kRowsPerPass, to += kRowsPerPass * Tile::kPitch) {
      StoreShared(to, uint4{0, 0, 0, 0});
    }
  }

  __device__ __forceinline__ static void Run(const ShortArgs& args, unsigned char* smem) {
    const FwdParams& p = args.p;
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const int head = blockIdx.x, seq = blockIdx.y, head_k = head / args.group;
    const int q0 = p.cu_seqlens_q[seq], k0 = p.cu_seqlens_k[seq];
    const int q_len = Min(p.cu_seqlens_q[seq + 1] - q0, args.rows);
    const int k_len = Min(p.cu_seqlens_k[seq + 1] - k0, args.rows);
    const SeqMask mask = SequenceMask(p.mask, seq, k_len);

    const uint32_t k_base = SmemAddress(smem), v_base = k_base + args.rows * Tile::kPitch;
    const uint32_t q_base = v_base + args.rows * Tile::kPitch;
    Request(k_base, p.k, k0, head_k, k_len);
    Request(q_base, p.q, q0, head, q_len);
    Request(v_base, p.v, k0, head_k, k_len);
    CpAsyncWaitAll();
    __syncthreads();

    const uint32_t k_lane = k_base + Tile::Offset(LaneNk(lane).row, LaneNk(lane).chunk);
    const uint32_t v_lane = v_base + Tile::Offset(LaneKn(lane).row, LaneKn(lane).chunk);
    const uint32_t q_lane = q_base + Tile::Offset(LaneMk(lane).row, LaneMk(lane).chunk);
    const int strips = (q_len + kWarpRows - 1) / kWarpRows;
#pragma unroll 1
    for (int pass = 0;; ++pass) {
      // The last strips first: under a causal mask they are the longest. A warp that had a long one
      // gets a short one next.
      const int strip = strips - 1 - pass * kWarps - (pass % 2 == 0 ? warp : kWarps - 1 - warp);
      if (strip < 0) break;
      RunStrip(args, mask, strip * kWarpRows, q_len, q_base, q_lane, k_lane, v_lane,
               const_cast<char*>(Block::RowOf(p.o, q0, head)));
    }
  }

  // The output of a strip, the rows from m0 on; `out` is that of row 0.
  __device__ __forceinline__ static void RunStrip(const ShortArgs& args, const SeqMask& mask,
                                                  int m0, int q_len, uint32_t q_base,
                                                  uint32_t q_lane, uint32_t k_lane, uint32_t v_lane,
                                                  char* out) {
    const int lane = threadIdx.x % kWarpSize;
    q_lane += m0 * Tile::kPitch;
    uint32_t q[kMmaK][kMmaM][4];  // A fragments of (kWarpRows, kHeadDim)
    Block::LoadQ(q, q_lane);
    float o[kMmaM][kHeadDim / 8][4] = {};  // C fragments of (kWarpRows, kHeadDim)

    // Some row sees columns from `begin` to `end`, all rows see those from `full_begin` to
    // `full_end`.
    const int row = Min(m0 + lane % kWarpRows, q_len - 1);
    const RowSpan span = mask.row(row + mask.k_len - q_len);
    const int begin = __reduce_min_sync(kFullMask, span.begin) / kPartN * kPartN;
    const int end = __reduce_max_sync(kFullMask, Max(span.hist, span.end));
    const int full_begin = __reduce_max_sync(kFullMask, span.begin);
    const int full_end = __reduce_min_sync(kFullMask, span.hist);
#pragma unroll 1
    for (int n = begin; n < end;) {
      if (kChunkN > kPartN && n >= full_begin && n + kChunkN <= full_end) {
        float s[kMmaM][kChunkN / 8][4];  // C fragments of (kWarpRows, kChunkN)
        Block::template ComputeScores<kChunkN>(s, q_lane, k_lane + n * Tile::kPitch, 0, q,
                                               [](int) {});
        Block::template AddValues<kChunkN>(args.half_alpha, s, v_lane + n * Tile::kPitch, o);
        n += kChunkN;
      } else {
        Block::AddVisible(args.half_alpha, SpanBits(span, n), q_lane, k_lane + n * Tile::kPitch,
                          v_lane + n * Tile::kPitch, 0, q, o);
        n += kPartN;
      }
    }

    // By way of the strip's place in shared memory, which no other warp reads.
    __syncwarp();
    Block::StageOutput(q_base, m0, lane, args.p.inv_n, o);
    __syncwarp();
    constexpr int kRowsPerPass = kWarpSize / Tile::kChunks;
    const int chunk = lane % Tile::kChunks, first = m0 + lane / Tile::kChunks;
    char* dst = out + 2 * first * args.p.o.row_stride + chunk * kChunkBytes;
    const int64_t step = 2 * kRowsPerPass * args.p.o.row_stride;
#pragma unroll
    for (int i = 0; i < kWarpRows; i += kRowsPerPass, dst += step) {
      const uint4 v = LoadShared(q_base + Tile::Offset(first + i, chunk));
      if (first + i < q_len) *reinterpret_cast<uint4*>(dst) = v;
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    fwd_short_kernel(const __grid_constant__ ShortArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const FwdParams& p = args.p;
  if (blockIdx.y >= p.batch) {
    ClearRows(p.o, p.cu_seqlens_q[p.batch], p.total_q, p.heads, Traits::kHeadDim,
              (blockIdx.y - p.batch) * gridDim.x + blockIdx.x, (gridDim.y - p.batch) * gridDim.x);
    return;
  }
  ShortBlock<Traits>::Run(args, smem);
}

}  // namespace accel::hstu
