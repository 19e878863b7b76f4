// File: bucketize.cu
//
// The occurrences of a batch dealt out to the ranks of a group, each bag in its order: what rank 0
// gets, feature by feature and sample by sample, then rank 1 ... Few keys a bag; deal_keys.cu does
// it for many.
#include "csrc/common/scratch.h"
#include "csrc/dynamicemb/deal.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

// Pass 0 counts, pass 1 puts: a bag is one thread's.
struct DealBody {
  BucketizeArgs a;
  int64_t* next;  // (world * bags), where the next key of a bag goes
  int pass;

  ACCEL_HD void operator()(int64_t bag) const {
    const int64_t bags = a.features * a.batch, feature = bag / a.batch;
    const auto dist = static_cast<Dist>(a.dist[feature]);
    const auto block = static_cast<uint64_t>(a.block_sizes ? a.block_sizes[feature] : 0);
    for (int64_t r = 0; r < a.world; ++r) {
      if (pass == 0) a.new_lengths[r * bags + bag] = 0;
      if (pass == 1) next[r * bags + bag] = a.new_offsets[r * bags + bag];
    }
    for (int64_t i = a.offsets[bag]; i < a.offsets[bag + 1]; ++i) {
      const Dealt to =
          Deal(dist, static_cast<uint64_t>(a.keys[i]), static_cast<uint64_t>(a.world), block);
      if (pass == 0) {
        ++a.new_lengths[to.rank * bags + bag];
        continue;
      }
      const int64_t at = next[to.rank * bags + bag]++;
      a.new_keys[at] = to.key;
      a.permute[i] = at;
      if (a.weights != nullptr) a.new_weights[at] = a.weights[i];
    }
  }
};

struct OffsetsBody {
  const int64_t* lengths;
  int64_t* offsets;
  ACCEL_HD int64_t Value(int64_t i) const { return lengths[i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const { offsets[i] = before; }
};

// ---- On a GPU, for a few ranks: a block has a tile of bags of one feature. Keys are put in order,
// and bags follow each other as their keys do.

constexpr int64_t kTileBags = kBlock, kKeptRanks = 4096;

struct BagTile {
  int64_t first, last;  // bags
  int64_t from, upto;   // keys
  Dist dist;
  uint64_t block;
};

__device__ BagTile TileOf(const BucketizeArgs& a, unsigned feature_tiles) {
  const int64_t feature = blockIdx.x / feature_tiles;
  const int64_t first = feature * a.batch + blockIdx.x % feature_tiles * kTileBags;
  const int64_t last = Min(first + kTileBags, (feature + 1) * a.batch);
  return {first,
          last,
          a.offsets[first],
          a.offsets[last],
          static_cast<Dist>(a.dist[feature]),
          static_cast<uint64_t>(a.block_sizes ? a.block_sizes[feature] : 0)};
}

__device__ Dealt DealtTo(const BucketizeArgs& a, const BagTile& tile, int64_t i) {
  return Deal(tile.dist, static_cast<uint64_t>(a.keys[i]), static_cast<uint64_t>(a.world),
              tile.block);
}

// The lengths of bags, and sums: (world, tiles), the keys of each tile.
__global__ void __launch_bounds__(kBlock)
    CountBags(BucketizeArgs a, unsigned feature_tiles, int64_t* sums) {
  constexpr int kRanks = 8;  // counted in one go over a bag
  __shared__ uint8_t kept[kKeptRanks];
  __shared__ int counts[kMostTileRanks];
  const BagTile tile = TileOf(a, feature_tiles);
  const int64_t bags = a.features * a.batch, bag = tile.first + threadIdx.x;
  if (threadIdx.x < a.world) counts[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t i = tile.from + threadIdx.x; i < tile.upto; i += kBlock) {
    const auto rank = static_cast<int>(DealtTo(a, tile, i).rank);
    atomicAdd(counts + rank, 1);
    if (i - tile.from < kKeptRanks) kept[i - tile.from] = static_cast<uint8_t>(rank);
  }
  __syncthreads();
  if (threadIdx.x < a.world) sums[threadIdx.x * gridDim.x + blockIdx.x] = counts[threadIdx.x];
  if (bag >= tile.last) return;
  const int64_t begin = a.offsets[bag], end = a.offsets[bag + 1];
  for (int r = 0; r < a.world; r += kRanks) {
    int count[kRanks] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i - tile.from;
      const int rank = at < kKeptRanks ? kept[at] : static_cast<int>(DealtTo(a, tile, i).rank);
#pragma unroll
      for (int j = 0; j < kRanks; ++j) count[j] += rank == r + j;
    }
#pragma unroll
    for (int j = 0; j < kRanks; ++j) {
      if (r + j < a.world) a.new_lengths[(r + j) * bags + bag] = count[j];
    }
  }
}

// before: (world, tiles), where the first key of a tile goes.
__global__ void __launch_bounds__(kBlock)
    PutKeys(BucketizeArgs a, unsigned feature_tiles, const int64_t* before) {
  __shared__ int64_t next[kMostTileRanks];
  __shared__ int counts[kWarps][kMostTileRanks];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int bits = 32 - __clz(static_cast<int>(a.world) - 1);
  const BagTile tile = TileOf(a, feature_tiles);
  if (threadIdx.x < a.world) next[threadIdx.x] = before[threadIdx.x * gridDim.x + blockIdx.x];
  for (int64_t from = tile.from; from < tile.upto; from += kBlock) {
    for (int r = lane; r < a.world; r += kWarpSize) counts[warp][r] = 0;
    __syncthreads();
    const int64_t i = from + threadIdx.x;
    const bool mine = i < tile.upto;
    const Dealt to = mine ? DealtTo(a, tile, i) : Dealt{0, 0};
    const auto rank = static_cast<int>(to.rank);
    unsigned alike = __ballot_sync(kFullMask, mine);
    for (int b = 0; b < bits; ++b) {
      const bool bit = rank >> b & 1;
      const unsigned set = __ballot_sync(kFullMask, bit);
      alike &= bit ? set : ~set;
    }
    const int ahead = __popc(alike & ((1u << lane) - 1));
    if (mine && ahead == 0) counts[warp][rank] = __popc(alike);
    __syncthreads();
    if (mine) {
      int64_t at = next[rank] + ahead;
      for (int w = 0; w < warp; ++w) at += counts[w][rank];
      a.new_keys[at] = to.key;
      a.permute[i] = at;
      if (a.weights != nullptr) a.new_weights[at] = a.weights[i];
    }
    if (from + kBlock >= tile.upto) break;
    __syncthreads();
    if (threadIdx.x < a.world) {
      for (int w = 0; w < kWarps; ++w) next[threadIdx.x] += counts[w][threadIdx.x];
    }
    __syncthreads();
  }
}

int64_t FeatureTiles(const BucketizeArgs& a) { return CeilDiv<int64_t>(a.batch, kTileBags); }

int BucketizeTiles(const Where& where, const BucketizeArgs& a) {
  const int64_t tiles = a.features * FeatureTiles(a);
  if (tiles == 0) return cudaSuccess;
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto blocks = static_cast<unsigned>(tiles);
  const auto feature_tiles = static_cast<unsigned>(FeatureTiles(a));
  auto* const sums = static_cast<int64_t*>(a.scratch);
  int64_t* const before = sums + a.world * tiles;
  CountBags<<<blocks, kBlock, 0, stream>>>(a, feature_tiles, sums);
  if (const int code = cudaGetLastError()) return code;
  const OffsetsBody body{sums, before};
  if (const int code = Scan(where, a.world * tiles, body, before + a.world * tiles + 1)) {
    return code;
  }
  PutKeys<<<blocks, kBlock, 0, stream>>>(a, feature_tiles, before);
  return cudaGetLastError();
}

size_t BucketizeTilesScratch(const BucketizeArgs& a) {
  const int64_t cells = a.world * a.features * FeatureTiles(a);
  return static_cast<size_t>(8 * (2 * cells + 1)) + ScanScratch(cells);
}

// ---- Elsewhere: a bag is one thread's.

size_t BucketizeScratch(const BucketizeArgs& a) {
  const int64_t parts = a.world * a.features * a.batch;
  return AlignScratch(static_cast<size_t>(8 * parts)) + ScanScratch(parts);
}

int Bucketize(const Where& where, const BucketizeArgs& a) {
  const int64_t bags = a.features * a.batch, parts = a.world * bags;
  auto* const next = static_cast<int64_t*>(a.scratch);
  void* const sums = static_cast<char*>(a.scratch) + AlignScratch(static_cast<size_t>(8 * parts));
  if (const int code = Each(where, bags, DealBody{a, next, 0})) return code;
  if (const int code = Scan(where, parts, OffsetsBody{a.new_lengths, a.new_offsets}, sums)) {
    return code;
  }
  return Each(where, bags, DealBody{a, next, 1});
}

}  // namespace accel::dynamicemb
