// File: place_kernels.cuh
//
// Rows by position: what a load moves when it knows where each row goes; and the device's clock.
#pragma once

#include "csrc/hkv/copy.cuh"

namespace hkv {
namespace device {

// values[i] = the row at positions[i].
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    GatherKernel(const View t, uint64_t n, const uint64_t* positions, char* values,
                 uint32_t word_bytes) {
  __shared__ WarpScratch scratches[kBlock / 32];
  const uint64_t i = ThreadIndex();
  const char* row = i < n ? t.RowAt(static_cast<uint32_t>(positions[i])) : nullptr;
  CopyRows<4, true>(scratches[threadIdx.x / 32], row, values + i * t.row_bytes, t.row_bytes,
                    word_bytes);
}

// Puts keys, scores and rows at positions, whatever was there. Positions are distinct.
template <int kBlock>
__global__ void __launch_bounds__(kBlock)
    PlaceKernel(const View t, uint64_t n, const uint64_t* positions, const uint64_t* keys,
                const uint64_t* scores, const char* values, uint32_t word_bytes) {
  __shared__ WarpScratch scratches[kBlock / 32];
  const uint64_t i = ThreadIndex();
  if (i == 0) ++t.state->lowered;
  const char* mine = nullptr;
  char* row = nullptr;
  if (i < n) {
    const auto position = static_cast<uint32_t>(positions[i]);
    *t.KeyAt(position) = keys[i];
    *t.ScoreAt(position) = scores[i];
    t.digests[position] = static_cast<uint8_t>(t.layout.PlaceOf(keys[i]).tag);
    mine = values + i * t.row_bytes;
    row = t.RowAt(position);
  }
  CopyRows<4, true>(scratches[threadIdx.x / 32], mine, row, t.row_bytes, word_bytes);
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock) ClockKernel(const View t, uint64_t* ns) {
  if (ThreadIndex() != 0) return;
  *ns = GlobalTimer();
  ++t.state->lowered;  // the table's clock may be set back
}

}  // namespace device
}  // namespace hkv
