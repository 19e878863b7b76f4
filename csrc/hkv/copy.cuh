// File: copy.cuh
//
// Row copies by a whole warp: every lane names one source and one destination row, and all lanes
// move the rows together, neighbouring lanes neighbouring bytes, several loads in flight.
#pragma once

#include "csrc/hkv/device.cuh"

namespace hkv {
namespace device {

// Shared memory of one warp: addresses of rows, from and to.
struct WarpScratch {
  ulonglong2 items[32];
};

// The `count` rows are one sequence of count * words words; lane l takes words l, l + 32, ...
template <int kUnroll, bool kReadOnly>
__device__ __forceinline__ void CopyWords(const WarpScratch& scratch, uint32_t count,
                                          uint32_t words) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t row_step = 32 / words, word_step = 32 - row_step * words;
  uint32_t row = lane / words, word = lane - row * words;
#pragma unroll 1
  while (row - lane / words < count) {
    uint4 data[kUnroll];
    uint4* to[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      to[u] = nullptr;
      if (row < count) {
        const ulonglong2 pair = scratch.items[row];
        const uint4* from = reinterpret_cast<const uint4*>(pair.x) + word;
        to[u] = reinterpret_cast<uint4*>(pair.y) + word;
        data[u] = kReadOnly ? __ldcs(from) : LoadRelaxed(from);
      }
      row += row_step;
      word += word_step;
      if (word >= words) {
        word -= words;
        ++row;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (to[u] != nullptr) __stcs(to[u], data[u]);
    }
  }
}

// Rows whose size or address does not suit 16-byte words; the simplest loop.
template <class Word>
__device__ __forceinline__ void CopyNarrow(const WarpScratch& scratch, uint32_t count,
                                           uint32_t words) {
#pragma unroll 1
  for (uint32_t i = threadIdx.x & 31; i < count * words; i += 32) {
    const uint32_t row = i / words, word = i - row * words;
    const ulonglong2 pair = scratch.items[row];
    reinterpret_cast<Word*>(pair.y)[word] = reinterpret_cast<const volatile Word*>(pair.x)[word];
  }
}

// Copies row_bytes from `from` to `to`; a lane with from == nullptr takes part but copies nothing.
// kReadOnly: no thread of this grid writes the sources. Whole warps only.
template <int kUnroll, bool kReadOnly>
__device__ __forceinline__ void CopyRows(WarpScratch& scratch, const char* from, char* to,
                                         uint32_t row_bytes, uint32_t word_bytes) {
  const unsigned mask = __ballot_sync(kFullMask, from != nullptr);
  if (mask == 0) return;
  const uint32_t rank = __popc(mask & ((1u << (threadIdx.x & 31)) - 1));
  __syncwarp();
  if (from != nullptr) {
    scratch.items[rank] = make_ulonglong2(reinterpret_cast<unsigned long long>(from),
                                          reinterpret_cast<unsigned long long>(to));
  }
  __syncwarp();
  if (word_bytes == 16) {
    CopyWords<kUnroll, kReadOnly>(scratch, __popc(mask), row_bytes / 16);
  } else if (word_bytes == 4) {
    CopyNarrow<uint32_t>(scratch, __popc(mask), row_bytes / 4);
  } else if (word_bytes == 2) {
    CopyNarrow<uint16_t>(scratch, __popc(mask), row_bytes / 2);
  } else {
    CopyNarrow<uint8_t>(scratch, __popc(mask), row_bytes);
  }
}

}  // namespace device
}  // namespace hkv
