// File: bwd_traits.h
//
// Sizes of the backward kernel: the blocking of each head dim, and the shared memory that it takes.
// Types and constants only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/hstu_attn/hstu.h"

namespace accel::hstu {

// A CUDA block owns kBlockN keys and walks over blocks of kBlockM queries, kChunkM of them at a
// time. Its warps come in pairs; one warp of a pair computes S and accumulates dV, the other one
// computes dP and accumulates dK. kSplit pairs share kWarpRows keys: each computes its part of the
// queries of S and dP, and accumulates its part of the head dim.
template <int kHeadDim_, int kBlockM_, int kBlockN_, int kWarpRows_, int kSplit_, int kStages_,
          int kMinBlocks_, bool kKeyDq_ = false, int kDqMaxCols_ = 32>
struct BwdTile {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kBlockM = kBlockM_;
  static constexpr int kBlockN = kBlockN_;
  static constexpr int kWarpRows = kWarpRows_;
  static constexpr int kSplit = kSplit_;
  static constexpr int kStages = kStages_;        // buffers of (Q, dO)
  static constexpr int kMinBlocks = kMinBlocks_;  // per multiprocessor, for the register budget

  static constexpr int kPairs = kBlockN / kWarpRows * kSplit;
  static constexpr int kWarps = 2 * kPairs;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kChunkM = kBlockM < 64 ? kBlockM : 64;
  static constexpr int kWarpM = kChunkM / kSplit;   // queries of S per warp and chunk
  static constexpr int kWarpD = kHeadDim / kSplit;  // columns of dV or dK per warp

  // K and V fragments stay in registers where the head dim leaves room for them.
  static constexpr bool kResident = kHeadDim <= 64 && kThreads * kMinBlocks <= 256;

  // dQ (kBlockM, kHeadDim) is split over all warps or the key warps, in passes of kDqMaxCols.
  static constexpr bool kKeyDq = kKeyDq_;
  static constexpr int kDqWarps = kKeyDq ? kPairs : kWarps;
  static constexpr int kDqRows = 32;
  static constexpr int kDqWarpsM = kBlockM / kDqRows;
  static constexpr int kDqWarpsD = kDqWarps / kDqWarpsM;
  static constexpr int kDqWarpCols = kHeadDim / kDqWarpsD;
  static constexpr int kDqCols = kDqWarpCols < kDqMaxCols_ ? kDqWarpCols : kDqMaxCols_;
  static constexpr int kDqPasses = kDqWarpCols / kDqCols;
  static constexpr int kDqRegs = kDqRows * kDqCols / 32;

  static constexpr int kKvBytes = kBlockN * kHeadDim * 2;  // one of K, V
  static constexpr int kQBytes = kBlockM * kHeadDim * 2;   // one of Q, dO
  static constexpr int kDsBytes = kBlockN * kBlockM * 2;   // one of two
  // dSiLU(S) and P on their way between warps; without a split, dSiLU(S) fits in dS's place.
  static constexpr int kWarpChunkBytes = kWarpRows * kWarpM * 2;
  static constexpr int kExchangeBytes = kSplit > 1 ? 2 * kPairs* kWarpChunkBytes : 0;
  static constexpr int kWalkBytes = 256;
  static constexpr int kSmemBytes =
      2 * kKvBytes + 2 * kStages * kQBytes + 2 * kDsBytes + kExchangeBytes + kWalkBytes;

  static_assert(kWarpRows == 16 || kWarpRows == 32, "one or two MMA rows");
  static_assert(kSplit == 1 || kSplit == 2, "a warp exchanges with one other");
  static_assert(kStages == 1 || kStages == 2, "single or double buffer");
  static_assert(kBlockM % kChunkM == 0 && kWarpM % 32 == 0, "whole fragments");
  static_assert(kDqCols % 16 == 0, "whole fragments");
};

// The kernel for whole sequences: a warp owns 16 keys, or kSplit warps share them, each of which
// computes S and dP and accumulates its part of the head dim.
template <int kHeadDim_, int kBlockN_, int kSplit_, int kMinBlocks_>
struct BwdWholeTile {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kBlockM = 32;
  static constexpr int kBlockN = kBlockN_;
  static constexpr int kWarpRows = 16;
  static constexpr int kSplit = kSplit_;
  static constexpr int kMinBlocks = kMinBlocks_;

  static constexpr int kWarps = kBlockN / kWarpRows * kSplit;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpD = kHeadDim / kSplit;  // columns of dV and dK per warp

  static constexpr int kDqWarps = kWarps;
  static constexpr int kDqRows = kBlockM * kHeadDim / kWarps < 32 * 16 ? 16 : 32;
  static constexpr int kDqWarpsM = kBlockM / kDqRows;
  static constexpr int kDqWarpsD = kDqWarps / kDqWarpsM;
  static constexpr int kDqWarpCols = kHeadDim / kDqWarpsD;
  static constexpr int kDqCols = kDqWarpCols < 32 ? kDqWarpCols : 32;
  static constexpr int kDqPasses = kDqWarpCols / kDqCols;
  static constexpr int kDqRegs = kDqRows * kDqCols / 32;

  static constexpr int kKvBytes = kBlockN * kHeadDim * 2;  // one of K, V
  static constexpr int kQBytes = kBlockM * kHeadDim * 2;   // one of Q, dO
  static constexpr int kDsBytes = kBlockN * kBlockM * 2;   // one of two
  static constexpr int kWalkBytes = 128;
  static constexpr int kSmemBytes = 2 * kKvBytes + 4 * kQBytes + 2 * kDsBytes + kWalkBytes;

  static_assert(kDqCols % 16 == 0, "whole fragments");
};

// The blockings of a head dim, by the shared memory that they take. Large: 227 KB (sm_90). Medium:
// 163 KB (sm_80). Small: 99 KB (sm_86, sm_89). Where two names mean one type it is compiled once.
// Whole: for batches of short sequences.
template <int kHeadDim>
struct BwdTiles;

template <>
struct BwdTiles<32> {
  using Large = BwdTile<32, 32, 64, 32, 1, 2, 4, true, 16>;
  using Medium = Large;
  using Small = Large;
  using Whole = BwdWholeTile<32, 64, 1, 4>;
};
template <>
struct BwdTiles<64> {
  using Large = BwdTile<64, 128, 128, 32, 1, 2, 1, true, 64>;
  using Medium = Large;
  using Small = BwdTile<64, 64, 128, 32, 1, 2, 1>;
  using Whole = BwdWholeTile<64, 64, 1, 4>;
};
template <>
struct BwdTiles<128> {
  using Large = BwdTile<128, 64, 128, 32, 1, 2, 1, true, 64>;
  using Medium = Large;
  using Small = BwdTile<128, 64, 64, 16, 1, 1, 1>;
  using Whole = BwdWholeTile<128, 64, 1, 2>;
};
template <>
struct BwdTiles<256> {
  using Large = BwdTile<256, 64, 64, 32, 2, 2, 1>;
  using Medium = BwdTile<256, 64, 64, 32, 2, 1, 1>;
  using Small = BwdTile<256, 32, 32, 16, 1, 1, 1>;
  using Whole = BwdWholeTile<256, 64, 2, 1>;
};

// Bounds over all blockings, for the size of the scratch memory.
constexpr int kBwdMaxBlockM = 128;
constexpr int kBwdMinBlockM = 32;
constexpr int kBwdMinBlockN = 32;

// Sequences of at most this many keys are worked off by one CUDA block each, if there are
// enough of them to fill a GPU: then dQ needs neither zeroed sums nor a conversion.
constexpr int kBwdWholeKeys = 256;
constexpr int kBwdWholeGrid = 256;

}  // namespace accel::hstu
