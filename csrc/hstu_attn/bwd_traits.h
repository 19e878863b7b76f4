// File: bwd_traits.h
//
// Sizes of the backward kernel: the blocking of each head dim, and the shared memory that it takes.
// Types and constants only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/hstu_attn/hstu.h"

namespace hstu {

// A CUDA block owns kBlockN keys and walks over blocks of kBlockM queries. Its warps come in pairs;
// a pair owns kWarpRows keys. One warp of it computes S and accumulates dV, the other one computes
// dP and accumulates dK; the latter compute dQ as well.
template <int kHeadDim_, int kBlockM_, int kBlockN_, int kWarpRows_, int kStages_, int kMinBlocks_>
struct BwdTile {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kBlockM = kBlockM_;
  static constexpr int kBlockN = kBlockN_;
  static constexpr int kWarpRows = kWarpRows_;
  static constexpr int kStages = kStages_;        // buffers of (Q, dO)
  static constexpr int kMinBlocks = kMinBlocks_;  // per multiprocessor, for the register budget

  static constexpr int kPairs = kBlockN / kWarpRows;
  static constexpr int kWarps = 2 * kPairs;
  static constexpr int kThreads = 32 * kWarps;

  // K and V fragments stay in registers where the head dim leaves room for them.
  static constexpr bool kResident = kHeadDim <= 64 && kThreads * kMinBlocks <= 256;

  // dQ (kBlockM, kHeadDim) is split over the kPairs warps, in passes of at most 64 registers.
  static constexpr int kDqWarpsM = kBlockM >= 64 ? 2 : 1;
  static constexpr int kDqWarpsD = kPairs / kDqWarpsM;
  static constexpr int kDqRows = kBlockM / kDqWarpsM;
  static constexpr int kDqPasses = kDqRows * kHeadDim / kDqWarpsD > 2048 ? 2 : 1;
  static constexpr int kDqCols = kHeadDim / kDqWarpsD / kDqPasses;
  static constexpr int kDqRegs = kDqRows * kDqCols / 32;

  static constexpr int kKvBytes = kBlockN * kHeadDim * 2;     // one of K, V
  static constexpr int kQBytes = kBlockM * kHeadDim * 2;      // one of Q, dO
  static constexpr int kDsBytes = kBlockN * kBlockM * 2;      // one of two
  static constexpr int kMaskWords = kBlockN / 32 * kBlockM;   // a bit per pair, one of two
  static constexpr int kWalkBytes = 256;
  static constexpr int kSmemBytes =
      2 * kKvBytes + 2 * kStages * kQBytes + 2 * kDsBytes + 2 * 4 * kMaskWords + kWalkBytes;

  static_assert(kWarpRows == 16 || kWarpRows == 32, "one or two MMA rows");
  static_assert(kDqRows % 16 == 0 && kDqCols % 16 == 0, "whole fragments");
  static_assert(kStages == 1 || kStages == 2, "single or double buffer");
};

// The blockings of a head dim, the largest shared memory first. Large: 227 KB (sm_90). Medium:
// 163 KB (sm_80). Small: 99 KB (sm_86, sm_89). A head dim whose medium blocking fits everywhere has
// only that one.
template <int kHeadDim>
struct BwdTiles;

template <>
struct BwdTiles<32> {
  using Large = BwdTile<32, 64, 128, 32, 2, 1>;
  using Medium = Large;
  using Small = Large;
};
template <>
struct BwdTiles<64> {
  using Large = BwdTile<64, 64, 128, 32, 2, 1>;
  using Medium = Large;
  using Small = Large;
};
template <>
struct BwdTiles<128> {
  using Large = BwdTile<128, 64, 128, 32, 2, 1>;
  using Medium = Large;
  using Small = BwdTile<128, 64, 64, 16, 1, 1>;
};
template <>
struct BwdTiles<256> {
  using Large = BwdTile<256, 64, 64, 16, 2, 1>;
  using Medium = BwdTile<256, 64, 64, 16, 1, 1>;
  using Small = BwdTile<256, 32, 32, 16, 1, 1>;
};

// Rows of Q that the dQ accumulator is rounded up to, whichever blocking runs.
constexpr int kBwdMaxBlockM = 64;
constexpr int kBwdMinBlockM = 32;
constexpr int kBwdMinBlockN = 32;

// The scratch memory, in order.
struct BwdWorkspace {
  size_t schedule = 0;    // ScheduleHeader, then a RowBlock per block of keys
  size_t semaphores = 0;  // int32 ticket, then one int32 per (block of queries, head)
  size_t dq = 0;          // fp32 accumulators, (block of queries, head, kBlockM * head_dim)
  size_t bytes = 0;
};

inline int64_t bwd_query_blocks(const BwdParams& p, int block_m) {
  return p.total_q / block_m + p.batch;
}

inline BwdWorkspace bwd_workspace(const BwdParams& p) {
  const auto align = [](size_t n) { return (n + 255) / 256 * 256; };
  BwdWorkspace w;
  w.semaphores = align(16 + 8 * (p.total_k / kBwdMinBlockN + static_cast<int64_t>(p.batch)));
  w.dq = w.semaphores + align(4 * (1 + bwd_query_blocks(p, kBwdMinBlockM) * p.heads));
  w.bytes = w.dq + sizeof(float) * (p.total_q + static_cast<int64_t>(p.batch) * kBwdMaxBlockM) *
                       p.heads * p.head_dim;
  return w;
}

}  // namespace hstu
