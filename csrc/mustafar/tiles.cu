// The layout `tiles` (bitmap.h): compression, and products with what it holds.
#include <cuda_fp16.h>

#include "csrc/common/portable.h"
#include "csrc/common/warp.cuh"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

constexpr int kThreads = 256;
constexpr int kTileWarps = kThreads / kWarpSize;
constexpr int kLines = 8;           // rows of `b`
constexpr int kTokensOfPart = 256;  // of a block of the values' product

// Element i of a tile is at first + i * stride.
struct TilePlace {
  int64_t first, stride;
};

__device__ __forceinline__ TilePlace PlaceOf(const TileParams& p, int64_t head, int tile) {
  const int block = tile / p.head_dim, rest = tile % p.head_dim;
  const int64_t in_head = head * p.tokens * p.head_dim;
  if (p.keys)
    return {in_head + static_cast<int64_t>(block) * kTile * p.head_dim + rest, p.head_dim};
  const int64_t token = static_cast<int64_t>(block) * kTile + rest % kTile;
  return {in_head + token * p.head_dim + rest / kTile * kTile, 1};
}

__device__ __forceinline__ int TilesOf(const TileParams& p) {
  return p.tokens / kTile * p.head_dim;
}

// Grid: (tiles / kThreads, heads); a thread has a tile.
__global__ void __launch_bounds__(kThreads) tile_bitmaps_kernel(const TileParams p) {
  const int tile = blockIdx.x * kThreads + threadIdx.x, tiles = TilesOf(p);
  if (tile >= tiles) return;
  const TilePlace at = PlaceOf(p, blockIdx.y, tile);
  uint64_t bitmap = 0;
  for (int i = 0; i < kTile; ++i) {
    const bool there = (p.x[at.first + i * at.stride] & 0x7fff) != 0;
    bitmap = bitmap << 1 | static_cast<uint64_t>(there);
  }
  const int64_t out = static_cast<int64_t>(blockIdx.y) * tiles + tile;
  p.bitmaps[out] = static_cast<int64_t>(bitmap);
  p.counts[out] = CeilDiv(__popcll(bitmap), 8) * 4;
}

__global__ void __launch_bounds__(kThreads) tile_pack_kernel(const TileParams p) {
  const int tile = blockIdx.x * kThreads + threadIdx.x, tiles = TilesOf(p);
  if (tile >= tiles) return;
  const int64_t head = blockIdx.y;
  const TilePlace at = PlaceOf(p, head, tile);
  const auto bitmap = static_cast<uint64_t>(p.bitmaps[head * tiles + tile]);
  const int32_t* const offset = p.offsets + head * (tiles + 1) + tile;
  const int64_t start = static_cast<int64_t>(p.starts[head]) * 8;
  uint16_t* to = p.packed + start + static_cast<int64_t>(offset[0]) * 2;
  const uint16_t* const end = p.packed + start + static_cast<int64_t>(offset[1]) * 2;
  for (int i = 0; i < kTile; ++i) {
    if (bitmap >> (63 - i) & 1) *to++ = p.x[at.first + i * at.stride];
  }
  while (to < end) *to++ = 0;
}

// Element i of a tile whose values begin at `values`.
__device__ __forceinline__ float ElementOf(uint64_t bitmap, const __half* values, int i) {
  const uint64_t up_to = bitmap >> (63 - i);
  return up_to & 1 ? __half2float(values[__popcll(up_to) - 1]) : 0.0f;
}

__device__ __forceinline__ const __half* ValuesOf(const TileProductParams& p, int64_t head,
                                                  int tiles, int tile) {
  return reinterpret_cast<const __half*>(p.packed) + static_cast<int64_t>(p.starts[head]) * 8 +
         static_cast<int64_t>(p.offsets[head * (tiles + 1) + tile]) * 2;
}

// Grid: (tokens / 64, batch). A thread has a token and every fourth channel.
__global__ void __launch_bounds__(kThreads) tile_keys_kernel(const TileProductParams p) {
  constexpr int kParts = kThreads / kTile;
  __shared__ float sums[kParts][kLines][kTile];
  const int token = threadIdx.x % kTile, part = threadIdx.x / kTile;
  const int tiles = p.tokens / kTile * p.head_dim;
  const int64_t batch = blockIdx.y, head = batch / p.groups;
  const auto* const b = reinterpret_cast<const __half*>(p.b) + batch * kLines * p.head_dim;
  float sum[kLines] = {};
  for (int d = part; d < p.head_dim; d += kParts) {
    const int tile = blockIdx.x * p.head_dim + d;
    const auto bitmap = static_cast<uint64_t>(p.bitmaps[head * tiles + tile]);
    const float x = ElementOf(bitmap, ValuesOf(p, head, tiles, tile), token);
    for (int line = 0; line < kLines; ++line) {
      sum[line] += x * __half2float(b[line * p.head_dim + d]);
    }
  }
  for (int line = 0; line < kLines; ++line) sums[part][line][token] = sum[line];
  __syncthreads();
  auto* const out = reinterpret_cast<__half*>(p.out) + batch * kLines * p.tokens;
  for (int i = threadIdx.x; i < kLines * kTile; i += kThreads) {
    float all = 0;
    for (int from = 0; from < kParts; ++from) all += sums[from][i / kTile][i % kTile];
    out[static_cast<int64_t>(i / kTile) * p.tokens + blockIdx.x * kTile + i % kTile] =
        __float2half(all);
  }
}

// Grid: (parts, D / 64, batch). A warp has every eighth token of a part, a lane two channels.
__global__ void __launch_bounds__(kThreads)
    tile_values_kernel(const TileProductParams p, float* partial) {
  __shared__ float sums[kTileWarps][kLines][kTile];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int tiles = p.tokens / kTile * p.head_dim;
  const int64_t batch = blockIdx.z, head = batch / p.groups;
  const auto* const b = reinterpret_cast<const __half*>(p.b) + batch * kLines * p.tokens;
  float sum[2][kLines] = {};
  const int end = Min((static_cast<int>(blockIdx.x) + 1) * kTokensOfPart, p.tokens);
  for (int token = blockIdx.x * kTokensOfPart + warp; token < end; token += kTileWarps) {
    const int tile = token / kTile * p.head_dim + blockIdx.y * kTile + token % kTile;
    const auto bitmap = static_cast<uint64_t>(p.bitmaps[head * tiles + tile]);
    const __half* const values = ValuesOf(p, head, tiles, tile);
    for (int i = 0; i < 2; ++i) {
      const float x = ElementOf(bitmap, values, lane + i * kWarpSize);
      for (int line = 0; line < kLines; ++line) {
        sum[i][line] += x * __half2float(b[static_cast<int64_t>(line) * p.tokens + token]);
      }
    }
  }
  for (int i = 0; i < 2; ++i) {
    for (int line = 0; line < kLines; ++line) {
      sums[warp][line][lane + i * kWarpSize] = sum[i][line];
    }
  }
  __syncthreads();
  float* const out = partial + (batch * gridDim.x + blockIdx.x) * kLines * p.head_dim;
  for (int i = threadIdx.x; i < kLines * kTile; i += kThreads) {
    float all = 0;
    for (int w = 0; w < kTileWarps; ++w) all += sums[w][i / kTile][i % kTile];
    out[i / kTile * p.head_dim + blockIdx.y * kTile + i % kTile] = all;
  }
}

// Adds up the parts. A thread has an element of the output.
__global__ void __launch_bounds__(kThreads)
    tile_sum_kernel(const float* partial, int parts, int size, int64_t count, __half* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float* const from = partial + i / size * parts * size + i % size;
  float sum = 0;
  for (int part = 0; part < parts; ++part) sum += from[static_cast<int64_t>(part) * size];
  out[i] = __float2half(sum);
}

static dim3 TileGrid(const TileParams& p) {
  return dim3(CeilDiv(p.tokens / kTile * p.head_dim, kThreads), p.heads);
}

cudaError_t TileBitmaps(const TileParams& p, cudaStream_t stream) {
  tile_bitmaps_kernel<<<TileGrid(p), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t TilePack(const TileParams& p, cudaStream_t stream) {
  tile_pack_kernel<<<TileGrid(p), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

cudaError_t TileKeys(const TileProductParams& p, cudaStream_t stream) {
  tile_keys_kernel<<<dim3(p.tokens / kTile, p.batch), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

static int PartsOf(const TileProductParams& p) { return CeilDiv(p.tokens, kTokensOfPart); }

size_t TileValuesScratchBytes(const TileProductParams& p) {
  return sizeof(float) * p.batch * PartsOf(p) * kLines * p.head_dim;
}

cudaError_t TileValues(const TileProductParams& p, void* scratch, cudaStream_t stream) {
  const int parts = PartsOf(p), size = kLines * p.head_dim;
  auto* const partial = static_cast<float*>(scratch);
  tile_values_kernel<<<dim3(parts, p.head_dim / kTile, p.batch), kThreads, 0, stream>>>(p, partial);
  if (const cudaError_t e = cudaGetLastError()) return e;
  const int64_t count = static_cast<int64_t>(p.batch) * size;
  tile_sum_kernel<<<static_cast<unsigned>(CeilDiv<int64_t>(count, kThreads)), kThreads, 0,
                    stream>>>(partial, parts, size, count, reinterpret_cast<__half*>(p.out));
  return cudaGetLastError();
}

}  // namespace accel::mustafar
