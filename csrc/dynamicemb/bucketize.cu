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

// ---- On a GPU, for a few ranks: a block has a tile of bags, a thread a bag.

constexpr int64_t kTileBags = kBlock, kKeptRanks = 4096;

ACCEL_HD Dealt DealtTo(const BucketizeArgs& a, int64_t feature, int64_t i) {
  const auto block = static_cast<uint64_t>(a.block_sizes ? a.block_sizes[feature] : 0);
  return Deal(static_cast<Dist>(a.dist[feature]), static_cast<uint64_t>(a.keys[i]),
              static_cast<uint64_t>(a.world), block);
}

// sums: (world, tiles). Pass 0 writes lengths and the sums of each tile; pass 1 has the sums of
// those before in it and puts the keys. The ranks of a tile's first keys are reckoned once.
__global__ void __launch_bounds__(kBlock)
    DealBags(BucketizeArgs a, int64_t tiles, int64_t* sums, int pass) {
  __shared__ uint8_t kept[kKeptRanks];
  __shared__ int64_t warps[kWarps];
  __shared__ int counts[kMostTileRanks];
  const int64_t bags = a.features * a.batch, tile = blockIdx.x, first = tile * kTileBags;
  const int64_t bag = first + threadIdx.x, last = Min(first + kTileBags, bags);
  const int64_t from = a.offsets[first], upto = a.offsets[last];
  const int64_t begin = bag < bags ? a.offsets[bag] : upto;
  const int64_t end = bag < bags ? a.offsets[bag + 1] : upto;
  if (threadIdx.x < a.world) counts[threadIdx.x] = 0;
  for (int64_t i = from + threadIdx.x; i < Min(upto, from + kKeptRanks); i += kBlock) {
    int64_t feature = first / a.batch;
    while (a.offsets[(feature + 1) * a.batch] <= i) ++feature;
    kept[i - from] = static_cast<uint8_t>(DealtTo(a, feature, i).rank);
  }
  __syncthreads();
  const int64_t feature = Min(bag, bags - 1) / a.batch;
  for (int64_t r = 0; r < a.world; ++r) {
    int count = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t rank = i - from < kKeptRanks ? kept[i - from] : DealtTo(a, feature, i).rank;
      count += rank == r;
    }
    if (pass == 0) {
      if (bag < bags) a.new_lengths[r * bags + bag] = count;
      const int sum = __reduce_add_sync(kFullMask, count);
      if (threadIdx.x % kWarpSize == 0) atomicAdd(counts + r, sum);
      continue;
    }
    int64_t at = sums[r * tiles + tile] + BlockExclusiveSum<int64_t>(count, warps);
    __syncthreads();
    for (int64_t i = begin; count > 0 && i < end; ++i) {
      const int64_t rank = i - from < kKeptRanks ? kept[i - from] : DealtTo(a, feature, i).rank;
      if (rank != r) continue;
      a.new_keys[at] = DealtTo(a, feature, i).key;
      a.permute[i] = at;
      if (a.weights != nullptr) a.new_weights[at] = a.weights[i];
      ++at;
    }
  }
  if (pass != 0) return;
  __syncthreads();
  if (threadIdx.x < a.world) sums[threadIdx.x * tiles + tile] = counts[threadIdx.x];
}

int BucketizeTiles(const Where& where, const BucketizeArgs& a) {
  const int64_t bags = a.features * a.batch, tiles = CeilDiv<int64_t>(bags, kTileBags);
  if (bags == 0) return cudaSuccess;
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto blocks = static_cast<unsigned>(tiles);
  auto* const sums = static_cast<int64_t*>(a.scratch);
  int64_t* const before = sums + a.world * tiles;
  DealBags<<<blocks, kBlock, 0, stream>>>(a, tiles, sums, 0);
  if (const int code = cudaGetLastError()) return code;
  const OffsetsBody body{sums, before};
  if (const int code = Scan(where, a.world * tiles, body, before + a.world * tiles + 1)) {
    return code;
  }
  DealBags<<<blocks, kBlock, 0, stream>>>(a, tiles, before, 1);
  return cudaGetLastError();
}

size_t BucketizeTilesScratch(const BucketizeArgs& a) {
  const int64_t cells = a.world * CeilDiv<int64_t>(a.features * a.batch, kTileBags);
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
