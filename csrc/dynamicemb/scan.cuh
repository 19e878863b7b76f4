// File: scan.cuh
//
// Prefix sums of what a body says, stored as it wants: Value(i) for i < n, then Store(i, sum of the
// values before i, Value(i)) for i <= n, where the last value is 0.
#pragma once

#include "csrc/common/warp.cuh"
#include "csrc/dynamicemb/loops.cuh"

namespace accel::dynamicemb {

constexpr int kPerThread = 8;
constexpr int64_t kScanTile = kBlock * kPerThread;

inline size_t ScanScratch(int64_t n) {
  return static_cast<size_t>(8 * (CeilDiv<int64_t>(n, kScanTile) + 1));
}

template <class Body>
__global__ void __launch_bounds__(kBlock) TileSums(int64_t n, Body body, int64_t* sums) {
  __shared__ int64_t warps[kWarps];
  const int64_t begin = blockIdx.x * kScanTile;
  int64_t sum = 0;
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t i = begin + k * kBlock + threadIdx.x;
    if (i < n) sum += body.Value(i);
  }
  const int64_t before = BlockExclusiveSum(sum, warps);
  if (threadIdx.x == kBlock - 1) sums[blockIdx.x] = before + sum;
}

// sums[t] becomes the sum before tile t; sums[tiles] the sum of all.
template <class Unused>
__global__ void __launch_bounds__(kBlock) ScanSums(int64_t tiles, int64_t* sums) {
  __shared__ int64_t warps[kWarps];
  __shared__ int64_t carried;
  if (threadIdx.x == 0) carried = 0;
  __syncthreads();
  for (int64_t begin = 0; begin < tiles; begin += kBlock) {
    const int64_t t = begin + threadIdx.x;
    const int64_t value = t < tiles ? sums[t] : 0;
    const int64_t before = carried + BlockExclusiveSum(value, warps);
    if (t < tiles) sums[t] = before;
    __syncthreads();
    if (threadIdx.x == kBlock - 1) carried = before + value;
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[tiles] = carried;
}

// kOfSums: `sums` is what TileSums wrote, and each block adds up those before its tile.
template <bool kOfSums, class Body>
__global__ void __launch_bounds__(kBlock) ScanTiles(int64_t n, Body body, const int64_t* sums) {
  __shared__ int64_t warps[kWarps];
  const int64_t begin = blockIdx.x * kScanTile;
  int64_t carried = kOfSums ? 0 : sums[blockIdx.x];
  if (kOfSums) {
    int64_t sum = 0;
    for (int64_t t = threadIdx.x; t < blockIdx.x; t += kBlock) sum += sums[t];
    BlockExclusiveSum(sum, warps);
    for (int w = 0; w < kWarps; ++w) carried += warps[w];
    __syncthreads();
  }
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t i = begin + k * kBlock + threadIdx.x;
    const int64_t value = i < n ? body.Value(i) : 0;
    const int64_t before = BlockExclusiveSum(value, warps);
    if (i < n) body.Store(i, carried + before, value);
    int64_t all = 0;
    for (int w = 0; w < kWarps; ++w) all += warps[w];
    carried += all;
    __syncthreads();
  }
  if (begin + kScanTile >= n && threadIdx.x == 0) body.Store(n, carried, 0);
}

template <class Body>
struct StoreNone {
  Body body;
  ACCEL_HD void operator()(int64_t) const { body.Store(0, 0, 0); }
};

// `scratch`: ScanScratch(n) bytes of device memory.
template <class Body>
int Scan(const Where& where, int64_t n, const Body& body, void* scratch) {
  if (where.cuda && n == 0) return Each(where, 1, StoreNone<Body>{body});
  if (!where.cuda) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t value = body.Value(i);
      body.Store(i, sum, value);
      sum += value;
    }
    body.Store(n, sum, 0);
    return cudaSuccess;
  }
  const auto stream = static_cast<cudaStream_t>(where.stream);
  const int64_t tiles = CeilDiv<int64_t>(n, kScanTile);
  auto* const sums = static_cast<int64_t*>(scratch);
  TileSums<<<static_cast<unsigned>(tiles), kBlock, 0, stream>>>(n, body, sums);
  constexpr int64_t kFewTiles = 1024;
  if (tiles <= kFewTiles) {
    ScanTiles<true><<<static_cast<unsigned>(tiles), kBlock, 0, stream>>>(n, body, sums);
  } else {
    ScanSums<Body><<<1, kBlock, 0, stream>>>(tiles, sums);
    ScanTiles<false><<<static_cast<unsigned>(tiles), kBlock, 0, stream>>>(n, body, sums);
  }
  return cudaGetLastError();
}

}  // namespace accel::dynamicemb
