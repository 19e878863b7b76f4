// File: fwd_traits.h
//
// Types and constants of one forward instance. A block of kWarps warps owns kBlockM query rows;
// each warp keeps the output of its kWarpRows rows in registers while the block walks over tiles of
// kBlockN keys, of which a warp turns kChunkN at a time into S, SiLU(S) and a product with V.
#pragma once

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/hstu_attn/hstu.h"

namespace accel::hstu {

// What a tile may leave unsaid.
struct FwdTile {
  static constexpr int kWarps = 4;
  static constexpr int kWarpRows = 32;    // 16 or 32
  static constexpr bool kQInRegs = true;  // else Q is read from shared memory every pass
  static constexpr bool kShareQ = false;  // Q passes through the memory of the K/V stages
};

// The tile of each instance; docs/hstu_kernels.md has the counts and measurements behind them.
//   kBlockN     keys per shared-memory stage
//   kChunkN     keys per pass through the registers
//   kMinBlocks  blocks that must fit on one multiprocessor
template <int kHeadDim, bool kHasRab>
struct FwdTileFor;
template <>
struct FwdTileFor<32, false> : FwdTile {
  static constexpr int kBlockN = 128, kChunkN = 64, kMinBlocks = 4;
};
template <>
struct FwdTileFor<32, true> : FwdTile {
  static constexpr int kBlockN = 64, kChunkN = 32, kMinBlocks = 3;
};
template <>
struct FwdTileFor<64, false> : FwdTile {
  static constexpr int kBlockN = 128, kChunkN = 32, kMinBlocks = 3;
  static constexpr bool kShareQ = true;
};
template <>
struct FwdTileFor<64, true> : FwdTile {
  static constexpr int kBlockN = 64, kChunkN = 32, kMinBlocks = 2;
};
template <>
struct FwdTileFor<128, false> : FwdTile {
  static constexpr int kBlockN = 64, kChunkN = 64, kMinBlocks = 2;
  static constexpr bool kQInRegs = false;
};
template <>
struct FwdTileFor<128, true> : FwdTile {
  static constexpr int kBlockN = 32, kChunkN = 32, kMinBlocks = 2;
  static constexpr bool kQInRegs = false;
};
template <bool kHasRab>
struct FwdTileFor<256, kHasRab> : FwdTile {
  static constexpr int kWarps = 8, kWarpRows = 16, kBlockN = 64, kChunkN = 32, kMinBlocks = 1;
  static constexpr bool kShareQ = true;
};

// The tile where more blocks of it fit into the shared memory of a multiprocessor: half of the keys
// at a time, where that was found to pay.
template <int kHeadDim, bool kHasRab>
struct FwdNarrowTileFor {
  using Tile = FwdTileFor<kHeadDim, kHasRab>;
};
template <>
struct FwdNarrowTileFor<64, false> {
  struct Tile : FwdTileFor<64, false> {
    static constexpr int kBlockN = 64;
  };
};
template <>
struct FwdNarrowTileFor<128, false> {
  struct Tile : FwdTileFor<128, false> {
    static constexpr int kBlockN = 32, kChunkN = 32;
  };
};
template <bool kHasRab>
struct FwdNarrowTileFor<256, kHasRab> {
  struct Tile : FwdTileFor<256, kHasRab> {
    static constexpr int kBlockN = 32;
  };
};

// Sequences of at most kRows rows and keys are worked off whole by one CUDA block each
// (fwd_short.cuh). Half: for sequences of at most half as many.
template <int kHeadDim>
struct FwdShort {
  static constexpr int kRows = 0;
};
template <>
struct FwdShort<32> {
  static constexpr int kRows = 256;
  struct Whole : FwdTile {
    static constexpr int kBlockN = 32, kChunkN = 32, kMinBlocks = 4;
  };
  using Half = Whole;
};
template <>
struct FwdShort<64> {
  static constexpr int kRows = 256;
  struct Whole : FwdTile {
    static constexpr int kWarps = 8, kWarpRows = 16, kBlockN = 64, kChunkN = 64, kMinBlocks = 2;
  };
  struct Half : Whole {
    static constexpr int kWarps = 4, kMinBlocks = 4;
  };
};
template <>
struct FwdShort<128> {
  static constexpr int kRows = 128;
  struct Whole : FwdTile {
    static constexpr int kWarpRows = 16, kBlockN = 32, kChunkN = 32, kMinBlocks = 3;
  };
  using Half = Whole;
};

template <class Element_, int kHeadDim_, bool kHasRab_,
          class Tile_ = FwdTileFor<kHeadDim_, kHasRab_>>
struct FwdTraits : Tile_ {
  using Element = Element_;
  using Tile = Tile_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kHasRab = kHasRab_;

  static constexpr int kStages = 2;  // of K, V and rab: one is computed on, one is copied into
  static constexpr int kThreads = Tile::kWarps * kWarpSize;
  static constexpr int kBlockM = Tile::kWarps * Tile::kWarpRows;
  static constexpr int kMmaM = Tile::kWarpRows / 16;  // per warp
  static constexpr int kMmaK = kHeadDim / 16;

  // A context block: each warp has all rows and a share of the keys of every tile. It pays where at
  // least half of the warps get one.
  static constexpr int kShareN =
      Tile::kBlockN >= 16 * Tile::kWarps ? Tile::kBlockN / Tile::kWarps : 16;
  static constexpr int kSharers = Tile::kBlockN / kShareN;
  static constexpr int kContextRows = 2 * kSharers >= Tile::kWarps ? Tile::kWarpRows : 0;

  static_assert(sizeof(Element) == 2, "bf16 or fp16");
  static_assert(Tile::kWarpRows == 16 || Tile::kWarpRows == 32, "a lane names a row of the warp");
  static_assert(Tile::kBlockN % Tile::kChunkN == 0 && Tile::kBlockN % 32 == 0, "whole chunks");
  static_assert(Tile::kQInRegs || !Tile::kShareQ, "shared memory that is reused keeps no Q");

  using QTile = SmemTile<kBlockM, kHeadDim>;  // also stages the output
  using KvTile = SmemTile<Tile::kBlockN, kHeadDim>;
  using RabTile = SmemTile<kBlockM, Tile::kBlockN>;

  // Shared memory: [Q] K stages, V stages, [rab stages], control.
  static constexpr int kQBytes = Tile::kShareQ ? 0 : QTile::kBytes;
  static constexpr int kKOffset = kQBytes;
  static constexpr int kVOffset = kKOffset + kStages * KvTile::kBytes;
  static constexpr int kRabOffset = kVOffset + kStages * KvTile::kBytes;
  static constexpr int kControlOffset = kRabOffset + (kHasRab ? kStages * RabTile::kBytes : 0);
  static_assert(!Tile::kShareQ || QTile::kBytes <= kControlOffset, "Q fits into the stages");
};

}  // namespace accel::hstu
