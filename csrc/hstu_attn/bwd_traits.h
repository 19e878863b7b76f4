// File: bwd_traits.h
//
// Types and constants of the backward kernels: the blocking of each head dim, and the shared memory
// that it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/hstu.h"
#include "csrc/hstu_attn/split.h"

namespace accel::hstu {

// What a blocking may leave unsaid.
struct BwdBlocking {
  static constexpr int kWarpRows = 32;   // keys of a warp: 16 or 32
  static constexpr int kSplit = 1;       // pairs of warps that share them
  static constexpr int kStages = 2;      // buffers of (Q, dO)
  static constexpr int kMinBlocks = 1;   // per multiprocessor, for the register budget
  static constexpr bool kKeyDq = false;  // the key warps compute dQ, else all warps
  static constexpr int kDqMaxCols = 32;  // columns of dQ that a warp computes in one pass
};

// A CUDA block owns kBlockN keys and walks over blocks of kBlockM queries, kChunkM of them at a
// time. Its warps come in pairs; one warp of a pair computes S and accumulates dV, the other one
// computes dP and accumulates dK. kSplit pairs share kWarpRows keys: each computes its part of the
// queries of S and dP, and accumulates its part of the head dim.
template <class Blocking>
struct BwdTile : Blocking {
  using Blocking::kBlockM, Blocking::kBlockN, Blocking::kHeadDim, Blocking::kKeyDq,
      Blocking::kMinBlocks, Blocking::kSplit, Blocking::kStages, Blocking::kWarpRows;

  static constexpr int kPairs = kBlockN / kWarpRows * kSplit;
  static constexpr int kWarps = 2 * kPairs;
  static constexpr int kThreads = kWarpSize * kWarps;
  static constexpr int kChunkM = kBlockM < 64 ? kBlockM : 64;
  static constexpr int kWarpM = kChunkM / kSplit;   // queries of S per warp and chunk
  static constexpr int kWarpD = kHeadDim / kSplit;  // columns of dV or dK per warp

  // K and V fragments stay in registers where the head dim leaves room for them.
  static constexpr bool kResident = kHeadDim <= 64 && kThreads * kMinBlocks <= 256;

  // dQ (kBlockM, kHeadDim) is split over kDqWarps warps.
  static constexpr int kDqWarps = kKeyDq ? kPairs : kWarps;
  static constexpr int kDqRows = 32;

  static constexpr int kKvBytes = kBlockN * kHeadDim * 2;  // one of K, V
  static constexpr int kQBytes = kBlockM * kHeadDim * 2;   // one of Q, dO
  static constexpr int kDsBytes = kBlockN * kBlockM * 2;   // one of two
  // dSiLU(S) and P on their way between warps; without a split, dSiLU(S) fits in dS's place.
  static constexpr int kWarpChunkBytes = kWarpRows * kWarpM * 2;
  static constexpr int kExchangeBytes = kSplit > 1 ? 2 * kPairs* kWarpChunkBytes : 0;
  static constexpr int kWalkBytes = 256;

  // Shared memory: K, V, Q stages, dO stages, 2 x dS, [exchange], walk.
  static constexpr int kVOffset = kKvBytes;
  static constexpr int kQOffset = kVOffset + kKvBytes;
  static constexpr int kDoOffset = kQOffset + kStages * kQBytes;
  static constexpr int kDsOffset = kDoOffset + kStages * kQBytes;
  static constexpr int kExchangeOffset = kDsOffset + 2 * kDsBytes;
  static constexpr int kWalkOffset = kExchangeOffset + kExchangeBytes;
  static constexpr int kSmemBytes = kWalkOffset + kWalkBytes;

  static_assert(kWarpRows == 16 || kWarpRows == 32, "one or two MMA rows");
  static_assert(kSplit == 1 || kSplit == 2, "a warp exchanges with one other");
  static_assert(kStages == 1 || kStages == 2, "single or double buffer");
  static_assert(kBlockM % kChunkM == 0 && kWarpM % kWarpSize == 0, "whole fragments");
};

// The kernel for whole sequences: a warp owns 16 keys, or kSplit warps share them, each of which
// computes S and dP and accumulates its part of the head dim.
struct BwdWholeBlocking : BwdBlocking {
  static constexpr int kBlockM = 32;
  static constexpr int kBlockN = 64;
  static constexpr int kWarpRows = 16;
};

template <class Blocking>
struct BwdWholeTile : Blocking {
  using Blocking::kBlockM, Blocking::kBlockN, Blocking::kHeadDim, Blocking::kSplit,
      Blocking::kWarpRows;

  static constexpr int kWarps = kBlockN / kWarpRows * kSplit;
  static constexpr int kThreads = kWarpSize * kWarps;
  static constexpr int kWarpD = kHeadDim / kSplit;  // columns of dV and dK per warp

  static constexpr int kDqWarps = kWarps;
  static constexpr int kDqRows = kBlockM * kHeadDim / kWarps < 32 * 16 ? 16 : 32;

  static constexpr int kKvBytes = kBlockN * kHeadDim * 2;  // one of K, V
  static constexpr int kQBytes = kBlockM * kHeadDim * 2;   // one of Q, dO
  static constexpr int kDsBytes = kBlockN * kBlockM * 2;   // one of two
  static constexpr int kWalkBytes = 128;

  // Shared memory: K, V, 2 x (Q, dO), 2 x dS, the sequence. dV and then dK pass through what lies
  // behind the first Q and dO.
  static constexpr int kVOffset = kKvBytes;
  static constexpr int kQOffset = kVOffset + kKvBytes;
  static constexpr int kStagingOffset = kQOffset + 2 * kQBytes;
  static constexpr int kDsOffset = kStagingOffset + 2 * kQBytes;
  static constexpr int kWalkOffset = kDsOffset + 2 * kDsBytes;
  static constexpr int kSmemBytes = kWalkOffset + kWalkBytes;
  static_assert(kKvBytes <= kWalkOffset - kStagingOffset, "dV or dK fits");
};

// The blockings of a head dim, by the shared memory that they take. Large: 227 KB (sm_90). Medium:
// 163 KB (sm_80). Small: 99 KB (sm_86, sm_89). Where two names mean one type it is compiled once.
// Whole: for batches of short sequences.
template <int kHeadDim>
struct BwdTiles;

template <>
struct BwdTiles<32> {
  struct LargeBlocking : BwdBlocking {
    static constexpr int kHeadDim = 32, kBlockM = 32, kBlockN = 64, kMinBlocks = 4;
    static constexpr int kDqMaxCols = 16;
    static constexpr bool kKeyDq = true;
  };
  struct WholeBlocking : BwdWholeBlocking {
    static constexpr int kHeadDim = 32, kMinBlocks = 4;
  };
  using Large = BwdTile<LargeBlocking>;
  using Medium = Large;
  using Small = Large;
  using Whole = BwdWholeTile<WholeBlocking>;
};

template <>
struct BwdTiles<64> {
  struct LargeBlocking : BwdBlocking {
    static constexpr int kHeadDim = 64, kBlockM = 128, kBlockN = 128;
    static constexpr int kDqMaxCols = 64;
    static constexpr bool kKeyDq = true;
  };
  struct SmallBlocking : BwdBlocking {
    static constexpr int kHeadDim = 64, kBlockM = 64, kBlockN = 128;
  };
  struct WholeBlocking : BwdWholeBlocking {
    static constexpr int kHeadDim = 64, kMinBlocks = 4;
  };
  using Large = BwdTile<LargeBlocking>;
  using Medium = Large;
  using Small = BwdTile<SmallBlocking>;
  using Whole = BwdWholeTile<WholeBlocking>;
};

template <>
struct BwdTiles<128> {
  struct LargeBlocking : BwdBlocking {
    static constexpr int kHeadDim = 128, kBlockM = 64, kBlockN = 128;
    static constexpr int kDqMaxCols = 64;
    static constexpr bool kKeyDq = true;
  };
  struct SmallBlocking : BwdBlocking {
    static constexpr int kHeadDim = 128, kBlockM = 64, kBlockN = 64, kWarpRows = 16, kStages = 1;
  };
  struct WholeBlocking : BwdWholeBlocking {
    static constexpr int kHeadDim = 128, kMinBlocks = 2;
  };
  using Large = BwdTile<LargeBlocking>;
  using Medium = Large;
  using Small = BwdTile<SmallBlocking>;
  using Whole = BwdWholeTile<WholeBlocking>;
};

template <>
struct BwdTiles<256> {
  struct LargeBlocking : BwdBlocking {
    static constexpr int kHeadDim = 256, kBlockM = 64, kBlockN = 64, kSplit = 2;
  };
  struct MediumBlocking : LargeBlocking {
    static constexpr int kStages = 1;
  };
  struct SmallBlocking : BwdBlocking {
    static constexpr int kHeadDim = 256, kBlockM = 32, kBlockN = 32, kWarpRows = 16, kStages = 1;
  };
  struct WholeBlocking : BwdWholeBlocking {
    static constexpr int kHeadDim = 256, kSplit = 2;
  };
  using Large = BwdTile<LargeBlocking>;
  using Medium = BwdTile<MediumBlocking>;
  using Small = BwdTile<SmallBlocking>;
  using Whole = BwdWholeTile<WholeBlocking>;
};

template <class Element_, int kHeadDim_, bool kHasRab_, bool kHasDrab_,
          class Tile_ = typename BwdTiles<kHeadDim_>::Large>
struct BwdTraits : Tile_ {
  using Element = Element_;
  using Tile = Tile_;
  template <class Other>
  using With = BwdTraits<Element_, kHeadDim_, kHasRab_, kHasDrab_, Other>;
  static constexpr bool kHasRab = kHasRab_;
  static constexpr bool kHasDrab = kHasDrab_;
  static_assert(sizeof(Element) == 2, "bf16 or fp16");
  static_assert(Tile::kHeadDim == kHeadDim_ && (kHasRab || !kHasDrab), "a bias has a gradient");

  using KvTile = SmemTile<Tile::kBlockN, Tile::kHeadDim>;
  using QTile = SmemTile<Tile::kBlockM, Tile::kHeadDim>;
  using DsTile = SmemTile<Tile::kBlockN, Tile::kBlockM>;

  // dQ (kBlockM, kHeadDim): a warp has kDqRows rows and, in kDqPasses passes, kDqCols columns each.
  static constexpr int kDqWarpsD = Tile::kDqWarps / (Tile::kBlockM / Tile::kDqRows);
  static constexpr int kDqWarpCols = Tile::kHeadDim / kDqWarpsD;
  static constexpr int kDqCols = kDqWarpCols < Tile::kDqMaxCols ? kDqWarpCols : Tile::kDqMaxCols;
  static constexpr int kDqPasses = kDqWarpCols / kDqCols;
  static constexpr int kDqRegs = Tile::kDqRows * kDqCols / kWarpSize;
  static_assert(kDqCols % 16 == 0, "whole fragments");

  // P and dS of fp16 are scaled on the way, so that values up to 1e6 stay finite.
  static constexpr float kScale = std::is_same_v<Element, __half> ? 0.0625f : 1.0f;
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
