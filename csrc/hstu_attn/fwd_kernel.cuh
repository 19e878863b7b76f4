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

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/features.h"
#include "csrc/hstu_attn/fwd_traits.h"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/mask_bits.cuh"
#include "csrc/hstu_attn/schedule.cuh"
#include "csrc/hstu_attn/split.cuh"
#include "csrc/hstu_attn/tail.cuh"

namespace accel::hstu {

struct FwdArgs {
  FwdParams p;
  Schedule schedule;
  SplitSums split;
  float half_alpha = 0.5f;
  bool rab_aligned = false;  // its rows can be copied 16 bytes at a time
  int32_t tail_blocks = 0;   // the last ones of the grid (tail.cuh)
};

constexpr int kMaxWarps = 8;

// The tiles that a warp visits, 32 candidates at a time: codes of those that are not empty, then
// kLastTile, or kMoreTiles when the candidates from `next` on have not been looked at yet.
struct TileList {
  int32_t codes[kWarpSize + 1];  // 4 * tile + 2 * (all keys come from k and v) + (all are visible)
  int32_t next;
};
constexpr int kLastTile = -1, kMoreTiles = -2;

// What a block's threads need now and then, kept in shared memory to keep it out of registers.
struct FwdControl {
  SeqMask mask;
  const char *q, *k, *v;  // of this head: the first row of the block; column 0
  int32_t q_row_bytes, k_row_bytes, v_row_bytes;
  const uint16_t* rab;  // of this sequence and head
  int32_t head, head_k;
  int32_t rows;         // query rows of this block
  int32_t first_own;    // those before it belong to the context block
  int32_t first_row;    // absolute index of the first, = the first row of rab
  int32_t q_row;        // its packed index in q
  int32_t paged_end;    // columns before this one lie in pages
  int32_t page_base;    // of this sequence in page_ids
  int32_t part, parts;  // of the keys: every `parts`-th tile from `part` on
  int32_t place;        // of the row block and the head among all
  uint32_t arrived;     // parts that ended before this one
  FuncSummary func[kFuncSummaries];
  TileList tiles[kMaxWarps];  // as many as the block has warps
};

// How the block's rows stand to the columns [n0, n1); kPartial where it is not known.
template <bool kGeneral>
__device__ __forceinline__ TileKind Classify(const MaskParams& p, const FwdControl& c, int n0,
                                             int n1) {
  if (kGeneral && kWithArbitrary && p.func != nullptr) return FuncTile(p, c.func, n0, n1);
  if (c.first_row < 0) return TileKind::kPartial;  // more rows than keys
  return c.mask.tile(c.first_row, c.first_row + c.rows, n0, n1);
}

// Lets each lane classify one of the next 32 tiles, and lists those that are not empty. Every warp
// does so on its own, and alike.
template <int kBlockN, bool kGeneral>
__device__ __forceinline__ void ListTiles(const MaskParams& p, const FwdControl& c,
                                          TileList& list) {
  const int lane = ThreadInBlock() % kWarpSize;
  const int k_len = c.mask.k_len;
  const int tile = (list.next + lane) * c.parts + c.part, n0 = tile * kBlockN;
  const TileKind kind =
      n0 < k_len ? Classify<kGeneral>(p, c, n0, Min(n0 + kBlockN, k_len)) : TileKind::kEmpty;
  const uint32_t some = __ballot_sync(kFullMask, kind != TileKind::kEmpty);
  if (kind != TileKind::kEmpty) {
    const bool plain = n0 + kBlockN <= k_len && (!kGeneral || n0 >= c.paged_end);
    list.codes[__popc(some & ((1u << lane) - 1))] =
        4 * tile + 2 * plain + (kind == TileKind::kFull);
  }
  if (lane == 0) {
    list.next += kWarpSize;
    const int next = (list.next * c.parts + c.part) * kBlockN;
    list.codes[__popc(some)] = next < k_len ? kMoreTiles : kLastTile;
  }
  __syncwarp();
}

// The code at `*at` of the list, which is then passed by; kLastTile at the end.
template <int kBlockN, bool kGeneral>
__device__ __forceinline__ int NextTile(const MaskParams& p, FwdControl& c, int* at) {
  TileList& list = c.tiles[ThreadInBlock() / kWarpSize];
  int code = list.codes[*at];
  while (code == kMoreTiles) {
    __syncwarp();
    ListTiles<kBlockN, kGeneral>(p, c, list);
    code = list.codes[*at = 0];
  }
  ++*at;
  return code;
}

// Copies rows [0, kRows) of a (rows, kCols) matrix into a tile; rows from `valid` on become zeros.
template <class SmemTile, int kThreads>
__device__ __forceinline__ void LoadRows(uint32_t dst, const char* src, int row_bytes, int valid) {
  constexpr int kRowsPerPass = kThreads / SmemTile::kChunks;
  constexpr int kPasses = SmemTile::kRows / kRowsPerPass;
  static_assert(SmemTile::kRows % kRowsPerPass == 0, "whole passes");
  const int thread = ThreadInBlock();
  const int chunk = thread % SmemTile::kChunks, first = thread / SmemTile::kChunks;
  src += static_cast<int64_t>(first) * row_bytes + chunk * kChunkBytes;
  const int step = kRowsPerPass * row_bytes;
  if (valid >= SmemTile::kRows) {
    const uint32_t to = dst + SmemTile::Offset(first, chunk);
#pragma unroll
    for (int i = 0; i < kPasses; ++i, src += step) {
      // Passes of whole groups of eight rows permute the chunks alike.
      CpAsync(kRowsPerPass % 8 == 0 ? to + i * kRowsPerPass * SmemTile::kPitch
                                    : dst + SmemTile::Offset(first + i * kRowsPerPass, chunk),
              src, kChunkBytes);
    }
  } else {
    const char* row_0 = src - static_cast<int64_t>(first) * row_bytes;
#pragma unroll 1
    for (int row = first; row < SmemTile::kRows; row += kRowsPerPass, src += step) {
      const bool in = row < valid;
      CpAsync(dst + SmemTile::Offset(row, chunk), in ? src : row_0, in ? kChunkBytes : 0);
    }
  }
}

template <class Traits, bool kGeneral>
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
  static constexpr int kMmaK = Traits::kMmaK;
  static constexpr int kShareN = Traits::kShareN;
  static constexpr int kSharers = Traits::kSharers;
  static constexpr int kPartN = 32;  // keys at a time where masks are looked at: bits of a word

  __device__ __forceinline__ static const char* RowOf(const Rows& r, int64_t row, int head) {
    return static_cast<const char*>(r.data) + 2 * (row * r.row_stride + head * r.head_stride);
  }

  // Loads the K and V tiles that start at column n0.
  __device__ __forceinline__ static void LoadKv(const FwdArgs& args, const FwdControl& c,
                                                uint32_t k_dst, uint32_t v_dst, int n0) {
    const int valid = c.mask.k_len - n0;
    const char* k = c.k + static_cast<int64_t>(n0) * c.k_row_bytes;
    const char* v = c.v + static_cast<int64_t>(n0) * c.v_row_bytes;
    if constexpr (kGeneral) {
      if (n0 < c.paged_end) {
        const PagedKv& kv = args.p.kv;
        constexpr int kRowsPerPass = kThreads / KvTile::kChunks;
        const int thread = ThreadInBlock();
        const int chunk = thread % KvTile::kChunks;
        const char* pages = static_cast<const char*>(kv.data) + 2 * c.head_k * kv.head_stride;
#pragma unroll 2
        for (int row = thread / KvTile::kChunks; row < kBlockN; row += kRowsPerPass) {
          const int j = n0 + row;
          const char* k_src = k + static_cast<int64_t>(row) * c.k_row_bytes;
          const char* v_src = v + static_cast<int64_t>(row) * c.v_row_bytes;
          if (j < c.paged_end) {
            const uint32_t page = static_cast<uint32_t>(j) / kv.page_size;
            const uint32_t slot = j - page * kv.page_size;
            k_src = pages +
                    2 * (kv.page_ids[c.page_base + page] * kv.page_stride + slot * kv.slot_stride);
            v_src = k_src + 2 * kv.kv_stride;
          }
          const int bytes = row < valid ? kChunkBytes : 0;
          const uint32_t offset = KvTile::Offset(row, chunk);
          CpAsync(k_dst + offset, bytes ? k_src + chunk * kChunkBytes : pages, bytes);
          CpAsync(v_dst + offset, bytes ? v_src + chunk * kChunkBytes : pages, bytes);
        }
        return;
      }
    }
    LoadRows<KvTile, kThreads>(k_dst, k, c.k_row_bytes, valid);
    LoadRows<KvTile, kThreads>(v_dst, v, c.v_row_bytes, valid);
  }

  // Loads the rab tile of the block's rows and the columns from n0 on.
  __device__ __forceinline__ static void LoadRab(const FwdArgs& args, const FwdControl& c,
                                                 uint32_t dst, int n0) {
    constexpr int kRowsPerPass = kThreads / RabTile::kChunks;
    const int thread = ThreadInBlock();
    const int chunk = thread % RabTile::kChunks, first = thread / RabTile::kChunks;
    const int col = n0 + chunk * kChunkElems;
    const int cols = Max(0, Min(c.mask.k_len - col, kChunkElems));
    const uint16_t* rab = c.rab + c.first_row * args.p.rab.row_stride + col;
    if constexpr (kGeneral) {
      if (!args.rab_aligned) {
#pragma unroll 1
        for (int row = first; row < kBlockM; row += kRowsPerPass) {
          const bool in = row < c.rows && c.first_row + row >= 0;
          const uint16_t* src = rab + row * args.p.rab.row_stride;
          uint32_t w[kChunkElems / 2];
#pragma unroll
          for (int e = 0; e < kChunkElems; e += 2) {
            const uint32_t lo = in && e < cols ? src[e] : 0,
                           hi = in && e + 1 < cols ? src[e + 1] : 0;
            w[e / 2] = lo | hi << 16;
          }
          StoreShared(dst + RabTile::Offset(row, chunk), uint4{w[0], w[1], w[2], w[3]});
        }
        return;
      }
    }
#pragma unroll 4
    for (int i = 0; i < kBlockM / kRowsPerPass; ++i) {
      const int row = first + i * kRowsPerPass;
      const bool in = row < c.rows && c.first_row + row >= 0 && cols > 0;
      CpAsync(dst + RabTile::Offset(row, chunk), in ? rab + row * args.p.rab.row_stride : c.rab,
              in ? 2 * cols : 0);
    }
  }

  __device__ __forceinline__ static void Run(const FwdArgs& args, unsigned char* smem) {
    const FwdParams& p = args.p;
    FwdControl& c = *reinterpret_cast<FwdControl*>(smem + Traits::kControlOffset);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    bool of_contexts;
    {
      const int most = args.split.split.most;
      const ScheduledWork work = WorkAt(args.schedule, most == 1 ? blockIdx.x : blockIdx.x / most);
      if (work.block == kNoBlock) return;
      const int q0 = p.cu_seqlens_q[work.seq], q_len = p.cu_seqlens_q[work.seq + 1] - q0;
      const int k0 = p.cu_seqlens_k[work.seq], k_len = p.cu_seqlens_k[work.seq + 1] - k0;
      const SeqMask mask = SequenceMask(p.mask, work.seq, k_len);
      const int context_rows = args.schedule.context_rows == 0
                                   ? 0
                                   : ContextBlockRows(mask, q_len, args.schedule.context_rows);
      of_contexts = work.block == kContextBlock;
      const int m0 = of_contexts ? 0 : work.block * kBlockM;
      const int rows = of_contexts ? context_rows : Min(q_len - m0, kBlockM);
      if (rows <= 0) return;
      const int first_row = m0 + k_len - q_len;
      int part = 0, parts = 1;
      if (most > 1) {
        part = blockIdx.x % most;
        const int seen = ColumnsSeen(p.mask, mask, first_row, first_row + rows - 1);
        parts = args.split.split.parts(seen);
        if (part >= parts) return;
      }
      if (threadIdx.x == 0) {
        c.mask = mask;
        if (of_contexts) {
          c.mask.k_len = mask.hist_end;  // what all of its rows see
        } else if (context_rows > 0) {
          c.mask.contexts = 0;
        }
        c.head = work.head;
        c.head_k = work.head / (p.heads / p.heads_k);
        if (Traits::kHasRab) {
          c.rab = static_cast<const uint16_t*>(p.rab.data) + work.seq * p.rab.batch_stride +
                  work.head * p.rab.head_stride;
        }
        c.rows = rows;
        c.first_own = of_contexts ? 0 : context_rows - m0;
        c.first_row = first_row;
        c.q_row = q0 + m0;
        c.part = part;
        c.parts = parts;
        c.place = (q0 / kBlockM + work.seq + work.block) * p.heads + work.head;
        int k_row = k0;  // of column 0
        if (kGeneral) {
          const bool paged = p.kv.data != nullptr;
          if (paged) k_row = q0 + q_len - k_len;
          c.paged_end = paged ? c.mask.hist_end : 0;
          c.page_base = paged ? p.kv.page_offsets[work.seq] : 0;
        }
        c.q_row_bytes = static_cast<int32_t>(2 * p.q.row_stride);
        c.k_row_bytes = static_cast<int32_t>(2 * p.k.row_stride);
        c.v_row_bytes = static_cast<int32_t>(2 * p.v.row_stride);
        c.q = RowOf(p.q, c.q_row, c.head);
        c.k = RowOf(p.k, k_row, c.head_k);
        c.v = RowOf(p.v, k_row, c.head_k);
      }
      if (lane == 0) {
        c.tiles[warp].next = 0;
        c.tiles[warp].codes[0] = kMoreTiles;
      }
      __syncthreads();
      if (kGeneral && kWithArbitrary && p.mask.func != nullptr) {
        SummariseFunc(p.mask, c.q_row, c.rows, c.func);
        __syncthreads();
      }
    }
    if constexpr (kWithContext && Traits::kContextRows > 0) {
      if (of_contexts) {
        Walk<true>(args, c, SmemAddress(smem));
        return;
      }
    }
    Walk<false>(args, c, SmemAddress(smem));
  }

  // The rest of the block's life. kOfContexts: it is a context block.
  template <bool kOfContexts>
  __device__ __forceinline__ static void Walk(const FwdArgs& args, FwdControl& c, uint32_t base) {
    const FwdParams& p = args.p;
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const uint32_t q_lane =
        base +
        QTile::Offset((kOfContexts ? 0 : warp * kWarpRows) + LaneMk(lane).row, LaneMk(lane).chunk);
    uint32_t q[Traits::kQInRegs ? kMmaK : 1][kMmaM][4];  // A fragments of (kWarpRows, kHeadDim)
    LoadRows<QTile, kThreads>(base, c.q, c.q_row_bytes, c.rows);
    if constexpr (Traits::kShareQ) {
      CpAsyncWaitAll();
      __syncthreads();
      LoadQ(q, q_lane);
      __syncthreads();
    }

    int at = 0;                                              // in this warp's list of tiles
    int code = NextTile<kBlockN, kGeneral>(p.mask, c, &at);  // of the tile in hand
    int next = kLastTile;                                    // of the one after it
    constexpr int kBothCopied = 2;  // added to the stage while there is nothing to copy
    int stage = kBothCopied;
    if (code >= 0) {
      LoadStage(args, c, base, 0, code);
      CpAsyncCommit();
      next = NextTile<kBlockN, kGeneral>(p.mask, c, &at);
      if (next >= 0) LoadStage(args, c, base, 1, next);
      CpAsyncCommit();
      CpAsyncWait<1>();
      __syncthreads();  // Q and the first tile have come
      if constexpr (Traits::kQInRegs && !Traits::kShareQ) LoadQ(q, q_lane);
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

#pragma unroll 1
    while (code >= 0) {
      const int copy = stage < kBothCopied ? next : kLastTile;
      stage &= 1;
      if constexpr (kOfContexts) {
        if (copy >= 0) LoadStage(args, c, base, stage ^ 1, copy);
        ComputeShare(args.half_alpha, base, q_lane, stage, q, o);
      } else if (code & 1) {
        ComputeFull(args, c, base, q_lane, stage, copy, q, o);
      } else {
        if (copy >= 0) LoadStage(args, c, base, stage ^ 1, copy);
        ComputePartial(args, c, base, q_lane, stage, (code >> 2) * kBlockN, q, o);
      }
      stage ^= 1;
      code = next;
      if (code >= 0) next = NextTile<kBlockN, kGeneral>(p.mask, c, &at);
      CpAsyncWaitAll();
      __syncthreads();  // tile `code` has come; nobody reads the other stage any more
    }
    if (at == 1) {  // no tile at all: Q may still be on its way to where the output is staged
      CpAsyncWaitAll();
      __syncthreads();
    }
    if constexpr (kOfContexts) {
      SumShares(base, o);
      if (warp > 0) return;
    } else if (c.parts > 1) {
      if (!JoinParts<kThreads>(args.split, c.place, c.part, c.parts, &c.arrived, o)) return;
    }
    Store(p, c, base, o);
  }

  __device__ __forceinline__ static void LoadQ(uint32_t (&q)[kMmaK][kMmaM][4], uint32_t q_lane) {
#pragma unroll
    for (int k = 0; k < kMmaK; ++k) {
#pragma unroll
      for (int m = 0; m < kMmaM; ++m) {
        LdMatrixX4(q[k][m], (q_lane ^ (k * 2 * kChunkBytes)) + m * 16 * QTile::kPitch);
      }
    }
  }

  // Copies one tile of K, V and rab into a stage.
  __device__ __forceinline__ static void LoadStage(const FwdArgs& args, const FwdControl& c,
                                                   uint32_t base, int stage, int code) {
    const int n0 = (code >> 2) * kBlockN;
    LoadKv(args, c, base + Traits::kKOffset + stage * KvTile::kBytes,
           base + Traits::kVOffset + stage * KvTile::kBytes, n0);
    if constexpr (Traits::kHasRab) {
      LoadRab(args, c, base + Traits::kRabOffset + stage * RabTile::kBytes, n0);
    }
  }

  // o += SiLU(alpha (q k^T + rab)) v over a partial tile, 32 keys at a time: those that none of the
  // warp's rows sees are skipped.
  template <int kQ>
  __device__ __forceinline__ static void ComputePartial(const FwdArgs& args, const FwdControl& c,
                                                        uint32_t base, uint32_t q_lane, int stage,
                                                        int n0, uint32_t (&q)[kQ][kMmaM][4],
                                                        float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    uint32_t k_lane = base + Traits::kKOffset + stage * KvTile::kBytes +
                      KvTile::Offset(LaneNk(lane).row, LaneNk(lane).chunk);
    uint32_t v_lane = base + Traits::kVOffset + stage * KvTile::kBytes +
                      KvTile::Offset(LaneKn(lane).row, LaneKn(lane).chunk);
    const uint32_t rab_lane =
        base + Traits::kRabOffset + stage * RabTile::kBytes +
        RabTile::Offset(warp * kWarpRows + LaneMk(lane).row, LaneMk(lane).chunk);

    const int row = warp * kWarpRows + lane % kWarpRows;  // whose visibility this lane works out
#pragma unroll 1
    for (int n = n0; n < n0 + kBlockN;
         n += kPartN, k_lane += kPartN * KvTile::kPitch, v_lane += kPartN * KvTile::kPitch) {
      const RowSpan span = row < c.rows ? c.mask.row(c.first_row + row) : RowSpan{0, 0, 0, 0};
      const uint32_t bits =
          VisibleBits<kGeneral>(args.p.mask, c.mask, span, row < c.rows, c.q_row + row, n);
      AddVisible(args.half_alpha, bits, q_lane, k_lane, v_lane, rab_lane ^ ((n - n0) * 2), q, o);
    }
  }

  // The same over 32 keys, of which row lane % kWarpRows of the warp sees `bits`.
  template <int kQ>
  __device__ __forceinline__ static void AddVisible(float half_alpha, uint32_t bits,
                                                    uint32_t q_lane, uint32_t k_lane,
                                                    uint32_t v_lane, uint32_t rab_lane,
                                                    uint32_t (&q)[kQ][kMmaM][4],
                                                    float (&o)[kMmaM][kHeadDim / 8][4]) {
    if (!__any_sync(kFullMask, bits != 0)) return;
    const int lane = threadIdx.x % kWarpSize;
    float s[kMmaM][kPartN / 8][4];  // C fragments of (kWarpRows, kPartN)
    ComputeScores<kPartN>(s, q_lane, k_lane, rab_lane, q, [](int) {});
    if (!__all_sync(kFullMask, bits == ~0u)) {
#pragma unroll
      for (int r = 0; r < kWarpRows / 8; ++r) {
        const uint32_t seen = __shfl_sync(kFullMask, bits, lane / 4 + 8 * r) >> (lane % 4 * 2);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float& x = s[r / 2][i / 2][r % 2 * 2 + i % 2];
          x = (seen >> (i / 2 * 8 + i % 2)) & 1 ? x : 0.0f;
        }
      }
    }
    AddValues<kPartN>(half_alpha, s, v_lane, o);
  }

  // o += SiLU(alpha (q k^T + rab)) v over this warp's share of a tile, all of which is visible or
  // zeros.
  template <int kQ>
  __device__ __forceinline__ static void ComputeShare(float half_alpha, uint32_t base,
                                                      uint32_t q_lane, int stage,
                                                      uint32_t (&q)[kQ][kMmaM][4],
                                                      float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    if (warp >= kSharers) return;
    const int n = warp * kShareN;
    const uint32_t kv_lane = base + stage * KvTile::kBytes + n * KvTile::kPitch;
    const uint32_t rab_lane = base + Traits::kRabOffset + stage * RabTile::kBytes +
                              RabTile::Offset(LaneMk(lane).row, LaneMk(lane).chunk);
    float s[kMmaM][kShareN / 8][4];  // C fragments of (kWarpRows, kShareN)
    ComputeScores<kShareN>(
        s, q_lane,
        kv_lane + Traits::kKOffset + KvTile::Offset(LaneNk(lane).row, LaneNk(lane).chunk),
        rab_lane ^ (n * 2), q, [](int) {});
    AddValues<kShareN>(
        half_alpha, s,
        kv_lane + Traits::kVOffset + KvTile::Offset(LaneKn(lane).row, LaneKn(lane).chunk), o);
  }

  // Adds the o of all warps into that of the first one, by way of shared memory.
  __device__ __forceinline__ static void SumShares(uint32_t base,
                                                   float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    constexpr int kFragments = kMmaM * kHeadDim / 8, kFragmentBytes = kWarpSize * 16;
    static_assert((kSharers - 1) * kFragments * kFragmentBytes <= Traits::kControlOffset, "room");
    if (warp > 0 && warp < kSharers) {
#pragma unroll
      for (int i = 0; i < kFragments; ++i) {
        const float(&x)[4] = o[i % kMmaM][i / kMmaM];
        StoreShared(base + ((warp - 1) * kFragments + i) * kFragmentBytes + lane * 16,
                    uint4{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                          __float_as_uint(x[3])});
      }
    }
    __syncthreads();
    if (warp > 0) return;
#pragma unroll 1
    for (int w = 0; w < kSharers - 1; ++w) {
#pragma unroll
      for (int i = 0; i < kFragments; ++i) {
        const uint4 x = LoadShared(base + (w * kFragments + i) * kFragmentBytes + lane * 16);
        float(&sum)[4] = o[i % kMmaM][i / kMmaM];
        sum[0] += __uint_as_float(x.x);
        sum[1] += __uint_as_float(x.y);
        sum[2] += __uint_as_float(x.z);
        sum[3] += __uint_as_float(x.w);
      }
    }
    __syncwarp();
  }

  // s = q k^T + rab for kN keys; `beside(k)` is called after each sixteenth of the head dimension.
  template <int kN, int kQ, class Beside>
  __device__ __forceinline__ static void ComputeScores(float (&s)[kMmaM][kN / 8][4],
                                                       uint32_t q_lane, uint32_t k_lane,
                                                       uint32_t rab_lane,
                                                       uint32_t (&q)[kQ][kMmaM][4], Beside beside) {
#pragma unroll
    for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
      for (int n = 0; n < kN / 8; n += 2) {
        InitScores(s[m][n], s[m][n + 1], (rab_lane ^ (n * kChunkBytes)) + m * 16 * RabTile::kPitch);
      }
    }
#pragma unroll
    for (int k = 0; k < kMmaK; ++k) {
      uint32_t a[kMmaM][4];
#pragma unroll
      for (int m = 0; m < kMmaM; ++m) {
        if constexpr (Traits::kQInRegs) {
#pragma unroll
          for (int i = 0; i < 4; ++i) a[m][i] = q[k][m][i];
        } else {
          LdMatrixX4(a[m], (q_lane ^ (k * 2 * kChunkBytes)) + m * 16 * QTile::kPitch);
        }
      }
#pragma unroll
      for (int n = 0; n < kN / 8; n += 2) {
        uint32_t b[4];
        LdMatrixX4(b, (k_lane ^ (k * 2 * kChunkBytes)) + n * 8 * KvTile::kPitch);
#pragma unroll
        for (int m = 0; m < kMmaM; ++m) {
          Mma<Element>(s[m][n], a[m], b[0], b[1]);
          Mma<Element>(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
      beside(k);
    }
  }

  // o += SiLU(alpha s) v for kN keys. SiLU of sixteen keys is computed between the products of the
  // sixteen before them: the special-function units work while the tensor cores do.
  template <int kN>
  __device__ __forceinline__ static void AddValues(float half_alpha, float (&s)[kMmaM][kN / 8][4],
                                                   uint32_t v_lane,
                                                   float (&o)[kMmaM][kHeadDim / 8][4]) {
    constexpr int kPacks = 4 * kMmaM;  // registers of an A fragment of (kWarpRows, 16)
    constexpr int kMmaD = kHeadDim / 16;
    uint32_t a[2][kMmaM][4];
    const auto silu = [&](int step, int i) {
      const float* x = &s[i / 4][2 * step + i % 4 / 2][i % 2 * 2];
      a[step & 1][i / 4][i % 4] =
          Pack<Element>(SiluOfHalf(x[0] * half_alpha), SiluOfHalf(x[1] * half_alpha));
    };
#pragma unroll
    for (int i = 0; i < kPacks; ++i) silu(0, i);
#pragma unroll
    for (int step = 0; step < kN / 16; ++step) {
#pragma unroll
      for (int d = 0; d < kMmaD; ++d) {
        uint32_t b[4];
        LdMatrixX4Trans(b, (v_lane ^ (d * 2 * kChunkBytes)) + step * 16 * KvTile::kPitch);
#pragma unroll
        for (int m = 0; m < kMmaM; ++m) {
          Mma<Element>(o[m][2 * d], a[step & 1][m], b[0], b[1]);
          Mma<Element>(o[m][2 * d + 1], a[step & 1][m], b[2], b[3]);
        }
        if (step + 1 < kN / 16) {
#pragma unroll
          for (int i = d * kPacks / kMmaD; i < (d + 1) * kPacks / kMmaD; ++i) silu(step + 1, i);
        }
      }
    }
  }

  // The same over a full tile. The copies of the tile after the next (`copy_code`, or none) are
  // issued between the first products, whose time on the tensor cores hides them.
  template <int kQ>
  __device__ __forceinline__ static void ComputeFull(const FwdArgs& args, const FwdControl& c,
                                                     uint32_t base, uint32_t q_lane, int stage,
                                                     int copy_code, uint32_t (&q)[kQ][kMmaM][4],
                                                     float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const uint32_t k_lane = base + Traits::kKOffset + stage * KvTile::kBytes +
                            KvTile::Offset(LaneNk(lane).row, LaneNk(lane).chunk);
    const uint32_t v_lane = base + Traits::kVOffset + stage * KvTile::kBytes +
                            KvTile::Offset(LaneKn(lane).row, LaneKn(lane).chunk);
    const uint32_t rab_lane =
        base + Traits::kRabOffset + stage * RabTile::kBytes +
        RabTile::Offset(warp * kWarpRows + LaneMk(lane).row, LaneMk(lane).chunk);

    // This thread's part of the next tile, when that is kBlockN rows in a row.
    constexpr int kRowsPerPass = kThreads / KvTile::kChunks, kPasses = kBlockN / kRowsPerPass;
    constexpr int kCopyEvery = 4 * kMmaK / (2 * kPasses);  // products between two fours of copies
    static_assert(kPasses % 2 == 0 && kCopyEvery > 0, "fours of copies, spread over one step");
    const int copy_n0 = (copy_code >> 2) * kBlockN;
    const bool copy = copy_code >= 0 && (copy_code & 2);
    if (copy_code >= 0) {
      if (!copy)
        LoadKv(args, c, base + Traits::kKOffset + (stage ^ 1) * KvTile::kBytes,
               base + Traits::kVOffset + (stage ^ 1) * KvTile::kBytes, copy_n0);
      if constexpr (Traits::kHasRab) {
        LoadRab(args, c, base + Traits::kRabOffset + (stage ^ 1) * RabTile::kBytes, copy_n0);
      }
    }
    const int thread = ThreadInBlock();
    const int copy_row = thread / KvTile::kChunks, copy_chunk = thread % KvTile::kChunks;
    const uint32_t copy_to = base + (stage ^ 1) * KvTile::kBytes;
    const int k_step = kRowsPerPass * c.k_row_bytes, v_step = kRowsPerPass * c.v_row_bytes;
    const char* k_from =
        c.k + copy_chunk * kChunkBytes + static_cast<int64_t>(copy_n0 + copy_row) * c.k_row_bytes;
    const char* v_from =
        c.v + copy_chunk * kChunkBytes + static_cast<int64_t>(copy_n0 + copy_row) * c.v_row_bytes;

    const auto copies = [&](int k) {
      if (k % kCopyEvery != 0) return;
#pragma unroll
      for (int i = k / kCopyEvery * 4; i < k / kCopyEvery * 4 + 4; ++i) {
        const bool is_k = i < kPasses;
        const int row = (is_k ? i : i - kPasses) * kRowsPerPass;
        const uint32_t offset = kRowsPerPass % 8 == 0
                                    ? KvTile::Offset(copy_row, copy_chunk) + row * KvTile::kPitch
                                    : KvTile::Offset(copy_row + row, copy_chunk);
        CpAsyncIf(copy, copy_to + (is_k ? Traits::kKOffset : Traits::kVOffset) + offset,
                  is_k ? k_from : v_from);
        if (is_k) {
          k_from += k_step;
        } else {
          v_from += v_step;
        }
      }
    };

#pragma unroll
    for (int n = 0; n < kBlockN; n += kChunkN) {
      float s[kMmaM][kChunkN / 8][4];  // C fragments of (kWarpRows, kChunkN)
      ComputeScores<kChunkN>(s, q_lane, k_lane + n * KvTile::kPitch, rab_lane ^ (n * 2), q,
                             [&](int k) {
                               if (n == 0) copies(k);
                             });
      AddValues<kChunkN>(args.half_alpha, s, v_lane + n * KvTile::kPitch, o);
    }
  }

  // Two neighbouring C fragments of scores before any product: rab, or zeros.
  __device__ __forceinline__ static void InitScores(float (&s0)[4], float (&s1)[4], uint32_t rab) {
    if constexpr (Traits::kHasRab) {
      uint32_t r[4];
      LdMatrixX4(r, rab);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 x = Unpack<Element>(r[i]), y = Unpack<Element>(r[i + 2]);
        s0[2 * i] = x.x;
        s0[2 * i + 1] = x.y;
        s1[2 * i] = y.x;
        s1[2 * i + 1] = y.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) s0[i] = s1[i] = 0.0f;
    }
  }

  // Puts o / N, rounded, into the rows from `first` on of a tile at `base`.
  __device__ __forceinline__ static void StageOutput(uint32_t base, int first, int lane,
                                                     float inv_n,
                                                     float (&o)[kMmaM][kHeadDim / 8][4]) {
#pragma unroll
    for (int m = 0; m < kMmaM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + m * 16 + half * 8 + lane / 4;
        const uint32_t to = base + QTile::Offset(row, 0) + lane % 4 * 4;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          StoreShared(to ^ (n * kChunkBytes),
                      Pack<Element>(o[m][n][2 * half] * inv_n, o[m][n][2 * half + 1] * inv_n));
        }
      }
    }
  }

  // Writes this warp's rows of o / N, 16 bytes a lane, by way of shared memory.
  __device__ __forceinline__ static void Store(const FwdParams& p, const FwdControl& c,
                                               uint32_t base, float (&o)[kMmaM][kHeadDim / 8][4]) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    StageOutput(base, warp * kWarpRows, lane, p.inv_n, o);
    __syncwarp();
    constexpr int kRowsPerPass = kWarpSize / QTile::kChunks;
    const int first = warp * kWarpRows + lane / QTile::kChunks, chunk = lane % QTile::kChunks;
    const int rows = c.rows - first;
    const int64_t step = kRowsPerPass * p.o.row_stride;
    uint16_t* dst = static_cast<uint16_t*>(p.o.data) + (c.q_row + first) * p.o.row_stride +
                    c.head * p.o.head_stride + chunk * kChunkElems;
#pragma unroll
    for (int i = 0; i < kWarpRows / kRowsPerPass; ++i, dst += step) {
      const uint4 v = LoadShared(base + QTile::Offset(first + i * kRowsPerPass, chunk));
      if (i * kRowsPerPass < rows && i * kRowsPerPass >= c.first_own - first) {
        *reinterpret_cast<uint4*>(dst) = v;
      }
    }
  }
};

// kGeneral: also for func masks, paged keys and rab rows that are not 16-byte aligned.
template <class Traits, bool kGeneral>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    fwd_kernel(const __grid_constant__ FwdArgs args) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t blocks = gridDim.x - args.tail_blocks;
  if (blockIdx.x >= blocks) {
    const FwdParams& p = args.p;
    ClearRows(p.o, p.cu_seqlens_q[p.batch], p.total_q, p.heads, Traits::kHeadDim,
              blockIdx.x - blocks, args.tail_blocks);
    return;
  }
  FwdBlock<Traits, kGeneral>::Run(args, smem);
}

}  // namespace accel::hstu
