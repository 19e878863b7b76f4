// File: host_rows.cuh
//
// Rows in pinned host memory, in the order of their addresses. A GPU that reads such rows in random
// order waits for the translation of their pages, not for the link; so a large batch first moves
// its rows in device memory and puts the others into bins of neighbouring rows; then the bins are
// put in order, and a few blocks go through all of them.
#pragma once

#include "csrc/hkv/copy.cuh"

namespace hkv {
namespace device {

constexpr uint32_t kHostBins = 4096;
constexpr uint32_t kHostBinKeys = 256;   // of a full batch, on average
constexpr uint32_t kHostBinSlots = 448;  // twelve standard deviations more
constexpr int kHostThreads = 256;
constexpr int kHostUnroll = 8;   // row words of a lane in flight
constexpr int kHostBlocks = 16;  // in all: together they should touch few pages

struct HostMoves {
  uint32_t* sizes = nullptr;  // (kHostBins), or null: rows are moved as they come
  uint2* moves = nullptr;     // (kHostBins, kHostBinSlots) of position, key index | reads << 31

  // Puts the move of a row into its bin; false for a row in device memory, or when the bin is full.
  __device__ __forceinline__ bool Take(const View& t, uint32_t position, uint64_t i,
                                       bool reads) const {
    if (sizes == nullptr) return false;
    const uint64_t row = t.RowOf(position);
    if (row < t.num_hbm_rows) return false;
    const auto bin = static_cast<uint32_t>((row - t.num_hbm_rows) * kHostBins /
                                           (t.layout.capacity - t.num_hbm_rows));
    const uint32_t slot = atomicAdd(sizes + bin, 1);
    if (slot >= kHostBinSlots) return false;
    moves[bin * kHostBinSlots + slot] =
        make_uint2(position, static_cast<uint32_t>(i) | static_cast<uint32_t>(reads) << 31);
    return true;
  }
};

// Puts the moves of a bin in the order of their rows. A block for each bin.
template <int kBlock>
__global__ void __launch_bounds__(kBlock) SortBinKernel(const HostMoves host) {
  __shared__ uint2 moves[kHostBinSlots];
  const uint32_t size = min(host.sizes[blockIdx.x], kHostBinSlots);
  uint2* const bin = host.moves + blockIdx.x * kHostBinSlots;
  for (uint32_t i = threadIdx.x; i < size; i += kBlock) moves[i] = bin[i];
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < size; i += kBlock) {
    const uint2 mine = moves[i];
    uint32_t rank = 0;
    for (uint32_t j = 0; j < size; ++j) {
      rank += moves[j].x < mine.x || (moves[j].x == mine.x && j < i);
    }
    bin[rank] = mine;
  }
}

// Launch with kHostBlocks blocks. values: (n, dim) of the batch. Neighbouring warps move
// neighbouring rows.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    HostRowsKernel(const View t, char* values, uint64_t pitch, uint32_t word_bytes,
                   const HostMoves host) {
  constexpr uint32_t kMine = kHostBins / kBlock;
  __shared__ WarpScratch scratches[kBlock / 32];
  __shared__ uint32_t ends[kHostBins], sums[kBlock / 32];  // moves in the bins up to each
  uint32_t mine = 0;
  for (uint32_t i = 0; i < kMine; ++i) {
    mine += min(host.sizes[threadIdx.x * kMine + i], kHostBinSlots);
    ends[threadIdx.x * kMine + i] = mine;
  }
  const uint32_t before = accel::BlockExclusiveSum(mine, sums);
  for (uint32_t i = 0; i < kMine; ++i) ends[threadIdx.x * kMine + i] += before;
  __syncthreads();
  const uint32_t size = ends[kHostBins - 1], step = gridDim.x * kBlock;
  for (uint32_t at = blockIdx.x * kBlock + threadIdx.x; (at & ~31u) < size; at += step) {
    char *from = nullptr, *to = nullptr;
    if (at < size) {
      uint32_t bin = 0;  // the first one that ends behind `at`
      for (uint32_t half = kHostBins / 2; half != 0; half /= 2) {
        if (ends[bin + half - 1] <= at) bin += half;
      }
      const uint32_t slot = at - (bin == 0 ? 0 : ends[bin - 1]);
      const uint2 move = host.moves[bin * kHostBinSlots + slot];
      char* const row = t.RowAt(move.x);
      char* const given = values + (move.y & 0x7fffffff) * pitch;
      const bool reads = move.y >> 31 != 0;
      from = reads ? row : given;
      to = reads ? given : row;
    }
    CopyRows<kHostUnroll, true>(scratches[threadIdx.x / 32], from, to, t.row_bytes, word_bytes);
  }
}

}  // namespace device
}  // namespace hkv
