// File: items.cuh
//
// Where the keys or values of 16 tokens come from, and how they lie in a slot of shared memory:
//   packed   the bitmaps, 2 D bytes, then the values
//   dense    rows of 2 D bytes whose 16-byte chunks are permuted so that no bank is read twice
// Tokens that there are not are zeros.
#pragma once

#include <cstdint>

#include "csrc/common/sm80_tile.cuh"
#include "csrc/mustafar/decode.h"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

// The place of a chunk of a dense row.
template <int D, bool kValues>
__device__ __forceinline__ uint32_t DenseOffset(int row, int chunk) {
  int to = chunk;
  if constexpr (D == 128) {
    to ^= kValues ? (row >> 1 & 1) | (row >> 2 & 1) << 2 : (chunk >> 3 & 1) | (row & 1) << 1;
  } else if constexpr (D == 64) {
    to ^= kValues ? (row >> 1 & 3) << 1 : row & 1;
  }
  return row * 2 * D + to * kChunkBytes;
}

// Waits until at most `pending` (0 to 2) groups of copies are in flight.
__device__ __forceinline__ void WaitPending(int pending) {
  if (pending == 2) return CpAsyncWait<2>();
  if (pending == 1) return CpAsyncWait<1>();
  CpAsyncWait<0>();
}

// Copies the first `valid` of `total` bytes and fills the rest with zeros. By a whole warp.
__device__ __forceinline__ void CopyRun(uint32_t to, const char* from, int valid, int total) {
#pragma unroll 1
  for (int at = threadIdx.x % kWarpSize * kChunkBytes; at < total; at += kWarpSize * kChunkBytes) {
    CpAsyncOnce(to + at, from + at, Max(Min(valid - at, kChunkBytes), 0));
  }
}

// Copies a whole item, `chunks` of 16 bytes: its bitmaps, kBitmaps chunks, then its values. Most
// items take three rounds, none more than kMost.
template <int kBitmaps, int kMost>
__device__ __forceinline__ void CopyItem(uint32_t to, const char* bitmaps, const char* values,
                                         int chunks) {
  static_assert(kBitmaps <= kWarpSize, "the bitmaps are in the first round");
  constexpr int kFew = 3, kRound = kWarpSize * kChunkBytes;
  const int lane = threadIdx.x % kWarpSize;
  to += lane * kChunkBytes;
  values += (lane - kBitmaps) * kChunkBytes;
  CpAsyncIf(lane < chunks, to, lane < kBitmaps ? bitmaps + lane * kChunkBytes : values);
#pragma unroll
  for (int i = 1; i < kFew; ++i) {
    CpAsyncIf(lane < chunks - i * kWarpSize, to + i * kRound, values + i * kRound);
  }
  if (chunks <= kFew * kWarpSize) return;
#pragma unroll
  for (int i = kFew; i < kMost; ++i) {
    CpAsyncIf(lane < chunks - i * kWarpSize, to + i * kRound, values + i * kRound);
  }
}

// 16 dense rows of a ring of `size` rows, from row `begin` on.
template <int D, bool kValues>
__device__ __forceinline__ void CopyDense(uint32_t slot, const uint16_t* from, int begin, int size,
                                          int rows) {
  constexpr int kChunks = D / kChunkElems;
#pragma unroll 2
  for (int i = threadIdx.x % kWarpSize; i < kUnitTokens * kChunks; i += kWarpSize) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int wrapped = begin + row < size ? begin + row : begin + row - size;
    CpAsyncOnce(slot + DenseOffset<D, kValues>(row, chunk),
                from + wrapped * D + chunk * kChunkElems, row < rows ? kChunkBytes : 0);
  }
}

// Rows row .. row + 15 of the pages.
template <int D, bool kValues>
__device__ __forceinline__ void CopyPacked(uint32_t slot, const Rows& of, uint32_t row, int rows) {
  const uint16_t* const values =
      of.values + static_cast<uint64_t>(row) * static_cast<uint32_t>(of.kept);
  if (of.kept == D) return CopyDense<D, kValues>(slot, values, 0, kUnitTokens, rows);
  static_assert(kUnitTokens == kChunkBytes, "2 n chunks are the values of a unit");
  constexpr int kBitmapBytes = kUnitTokens * D / 8;
  const auto* const bitmaps =
      reinterpret_cast<const char*>(of.bitmaps + static_cast<uint64_t>(row) * (D / 32));
  const auto* const packed = reinterpret_cast<const char*>(values);
  if (rows == kUnitTokens) {
    constexpr int kChunks = kBitmapBytes / kChunkBytes;
    constexpr int kMost = CeilDiv(kChunks + 2 * (D - 1), kWarpSize);
    CopyItem<kChunks, kMost>(slot, bitmaps, packed, kChunks + 2 * of.kept);
  } else {
    CopyRun(slot, bitmaps, rows * (D / 8), kBitmapBytes);
    CopyRun(slot + kBitmapBytes, packed, rows * 2 * of.kept, kUnitTokens * 2 * of.kept);
  }
}

}  // namespace accel::mustafar
