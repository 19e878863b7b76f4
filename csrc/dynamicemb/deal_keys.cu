// File: deal_keys.cu
//
// A counting sort of keys by (rank, segment), stable, in three passes: a warp counts the keys of a
// tile, the counts are summed up part by part, and the warp puts its keys.
#include "csrc/common/scratch.h"
#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/deal.h"
#include "csrc/dynamicemb/scan.cuh"

namespace accel::dynamicemb {

constexpr int64_t kDealTile = 512;  // keys of a warp

ACCEL_HD int PartOf(const DealKeysArgs& a, int64_t i) {
  const int64_t segment = SegmentOf(a.offsets, a.segments, i);
  const auto block = static_cast<uint64_t>(a.blocks ? a.blocks[segment] : 0);
  const Dealt to = Deal(static_cast<Dist>(a.dist[segment]), static_cast<uint64_t>(a.keys[i]),
                        static_cast<uint64_t>(a.world), block);
  return static_cast<int>(to.rank * a.segments + segment);
}

// counts: (parts, tiles). Pass 0 fills it; pass 1 has the sums of those before in it.
__global__ void __launch_bounds__(kWarpSize)
    DealTiles(DealKeysArgs a, int64_t tiles, int64_t* counts, int pass) {
  __shared__ int64_t next[kMostParts];
  const int lane = threadIdx.x;
  const int64_t parts = a.world * a.segments, tile = blockIdx.x, end = a.offsets[a.segments];
  for (int64_t p = lane; p < parts; p += kWarpSize) {
    next[p] = pass == 0 ? 0 : counts[p * tiles + tile];
  }
  __syncwarp();
  const int64_t begin = tile * kDealTile;
  for (int64_t from = begin; from < Min(begin + kDealTile, a.n); from += kWarpSize) {
    const int64_t i = from + lane;
    const bool mine = i < Min(a.n, end);
    const int part = mine ? PartOf(a, i) : -1;
    const unsigned alike = __match_any_sync(kFullMask, part);
    const int before = __popc(alike & ((1u << lane) - 1));
    int64_t at = 0;
    if (mine) at = next[part] + before;
    __syncwarp();
    if (mine && before == 0) next[part] += __popc(alike);
    __syncwarp();
    if (pass == 0 || i >= a.n) continue;
    if (!mine) at = i;
    a.new_keys[at] = a.keys[i];
    a.place[i] = at;
  }
  if (pass != 0) return;
  for (int64_t p = lane; p < parts; p += kWarpSize) counts[p * tiles + tile] = next[p];
}

struct TileSumsBody {
  const int64_t* counts;
  int64_t* sums;
  ACCEL_HD int64_t Value(int64_t i) const { return counts[i]; }
  ACCEL_HD void Store(int64_t i, int64_t before, int64_t) const { sums[i] = before; }
};

struct PartLengthsBody {
  const int64_t* sums;  // (parts * tiles + 1)
  int64_t* lengths;
  int64_t tiles;
  ACCEL_HD void operator()(int64_t p) const {
    lengths[p] = sums[(p + 1) * tiles] - sums[p * tiles];
  }
};

int64_t TilesOf(const DealKeysArgs& a) { return CeilDiv<int64_t>(Max<int64_t>(a.n, 1), kDealTile); }

size_t DealKeysScratch(const DealKeysArgs& a) {
  const int64_t cells = a.world * a.segments * TilesOf(a);
  return static_cast<size_t>(8 * (2 * cells + 1)) + ScanScratch(cells);
}

void DealOnHost(const DealKeysArgs& a) {
  const int64_t parts = a.world * a.segments, end = Min(a.n, a.offsets[a.segments]);
  auto* const next = static_cast<int64_t*>(a.scratch);
  for (int64_t p = 0; p < parts; ++p) a.lengths[p] = 0;
  for (int64_t i = 0; i < end; ++i) ++a.lengths[PartOf(a, i)];
  int64_t sum = 0;
  for (int64_t p = 0; p < parts; ++p) {
    next[p] = sum;
    sum += a.lengths[p];
  }
  for (int64_t i = 0; i < a.n; ++i) {
    a.place[i] = i < end ? next[PartOf(a, i)]++ : i;
    a.new_keys[a.place[i]] = a.keys[i];
  }
}

int DealKeys(const Where& where, const DealKeysArgs& a) {
  if (!where.cuda) {
    DealOnHost(a);
    return cudaSuccess;
  }
  const int64_t parts = a.world * a.segments, tiles = TilesOf(a), cells = parts * tiles;
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const auto blocks = static_cast<unsigned>(tiles);
  auto* const counts = static_cast<int64_t*>(a.scratch);
  int64_t* const sums = counts + cells;
  void* const scan = sums + cells + 1;
  DealTiles<<<blocks, kWarpSize, 0, stream>>>(a, tiles, counts, 0);
  if (const int code = cudaGetLastError()) return code;
  if (const int code = Scan(where, cells, TileSumsBody{counts, sums}, scan)) {
    return code;
  }
  DealTiles<<<blocks, kWarpSize, 0, stream>>>(a, tiles, sums, 1);
  if (const int code = cudaGetLastError()) return code;
  return Each(where, parts, PartLengthsBody{sums, a.lengths, tiles});
}

}  // namespace accel::dynamicemb
