// File: host_rows.cuh
//
// Rows in pinned host memory, in the order of their addresses. A GPU that reads such rows in random
// order waits for the translation of their pages, not for the link; so a large batch first moves
// its rows in device memory and puts the others into bins of neighbouring rows, and then a few
// blocks go through the bins in order.
#pragma once

#include "csrc/hkv/copy.cuh"

namespace hkv {
namespace device {

constexpr uint32_t kHostBins = 4096;
constexpr uint32_t kHostBinKeys = 256;   // of a full batch, on average
constexpr uint32_t kHostBinSlots = 448;  // twelve standard deviations more
constexpr int kHostThreads = 256;
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

// Launch with kHostBlocks blocks. values: (n, dim) of the batch.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    HostRowsKernel(const View t, char* values, uint64_t pitch, uint32_t word_bytes,
                   const HostMoves host) {
  __shared__ WarpScratch scratches[kBlock / 32];
  for (uint32_t bin = blockIdx.x; bin < kHostBins; bin += gridDim.x) {
    const uint32_t size = min(host.sizes[bin], kHostBinSlots);
    for (uint32_t at = threadIdx.x; (at & ~31u) < size; at += kBlock) {
      char *from = nullptr, *to = nullptr;
      if (at < size) {
        const uint2 move = host.moves[bin * kHostBinSlots + at];
        char* const row = t.RowAt(move.x);
        char* const mine = values + (move.y & 0x7fffffff) * pitch;
        const bool reads = move.y >> 31 != 0;
        from = reads ? row : mine;
        to = reads ? mine : row;
      }
      CopyRows<4, true>(scratches[threadIdx.x / 32], from, to, t.row_bytes, word_bytes);
    }
  }
}

}  // namespace device
}  // namespace hkv
