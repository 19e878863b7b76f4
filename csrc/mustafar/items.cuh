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

// The same value, which the compiler does not compute anew where it is needed.
__device__ __forceinline__ uint32_t Kept(uint32_t x) {
  return __shfl_sync(kFullMask, x, threadIdx.x);
}

template <class T>
__device__ __forceinline__ const char* Kept(const T* p) {
  const auto bits = reinterpret_cast<uint64_t>(p);
  const uint64_t lo = Kept(static_cast<uint32_t>(bits)),
                 hi = Kept(static_cast<uint32_t>(bits >> 32));
  return reinterpret_cast<const char*>(lo | hi << 32);
}

// Copies units of packed keys and values: what a lane copies is one chunk in each round. The
// bitmaps of both are one round.
template <int D>
struct UnitCopy {
  static_assert(kUnitTokens == kChunkBytes, "2 n chunks are the values of a unit");
  static constexpr int kBitmapBytes = kUnitTokens * D / 8;
  static constexpr int kBitmaps = kBitmapBytes / kChunkBytes, kRound = kWarpSize * kChunkBytes;
  static_assert(2 * kBitmaps <= kWarpSize, "one round");
  const char *bitmaps, *keys, *values;
  uint32_t lane_byte, bitmaps_to;

  __device__ __forceinline__ UnitCopy(const Rows& k, const Rows& v, int key_bytes) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const bool of_keys = lane < kBitmaps;
    const uint32_t byte = lane % kBitmaps * kChunkBytes;
    lane_byte = Kept(lane * kChunkBytes);
    bitmaps_to = Kept((of_keys ? 0 : key_bytes) + byte);
    bitmaps = Kept(reinterpret_cast<const char*>(of_keys ? k.bitmaps : v.bitmaps) + byte);
    keys = Kept(reinterpret_cast<const char*>(k.values) + lane_byte);
    values = Kept(reinterpret_cast<const char*>(v.values) + lane_byte);
  }

  template <int kFrom, int kTo>
  __device__ __forceinline__ void Rounds(uint32_t to, const char* from, uint32_t bytes) const {
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) {
      CpAsyncIf(lane_byte + i * kRound < bytes, to + i * kRound, from + i * kRound);
    }
  }

  // Rows row .. row + 15 of the pages.
  __device__ __forceinline__ void operator()(uint32_t slot, int key_bytes, uint32_t row,
                                             uint32_t k_kept, uint32_t v_kept) const {
    constexpr int kFew = 3, kMost = CeilDiv(2 * (D - 1), kWarpSize);
    const char* const k = keys + static_cast<uint64_t>(row) * (2 * k_kept);
    const char* const v = values + static_cast<uint64_t>(row) * (2 * v_kept);
    const uint32_t k_to = slot + lane_byte + kBitmapBytes, v_to = k_to + key_bytes;
    const uint32_t k_bytes = kUnitTokens * 2 * k_kept, v_bytes = kUnitTokens * 2 * v_kept;
    CpAsyncIf(lane_byte < 2 * kBitmapBytes, slot + bitmaps_to,
              bitmaps + static_cast<uint64_t>(row) * (D / 8));
    Rounds<0, kFew>(k_to, k, k_bytes);
    Rounds<0, kFew>(v_to, v, v_bytes);
    if (Max(k_bytes, v_bytes) <= kFew * kRound) return;
    Rounds<kFew, kMost>(k_to, k, k_bytes);
    Rounds<kFew, kMost>(v_to, v, v_bytes);
  }
};

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
  constexpr int kBitmapBytes = kUnitTokens * D / 8;
  const auto* const bitmaps =
      reinterpret_cast<const char*>(of.bitmaps + static_cast<uint64_t>(row) * (D / 32));
  const auto* const packed = reinterpret_cast<const char*>(values);
  CopyRun(slot, bitmaps, rows * (D / 8), kBitmapBytes);
  CopyRun(slot + kBitmapBytes, packed, rows * 2 * of.kept, kUnitTokens * 2 * of.kept);
}

}  // namespace accel::mustafar
