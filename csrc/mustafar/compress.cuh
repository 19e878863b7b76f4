// File: compress.cuh
//
// Which values of a token stay, and packing them. float16 and bfloat16 alike: the bits without the
// sign are in the order of the magnitudes, infinity and then NaN above all numbers. Of equal
// magnitudes the lowest channels stay.
//
// A group of eight lanes has a token, a warp four, 16 one after the other; a lane has D / 8
// consecutive channels.
#pragma once

#include <cstdint>

#include "csrc/common/warp.cuh"
#include "csrc/mustafar/expand.cuh"
#include "csrc/mustafar/mustafar.h"

namespace accel::mustafar {

constexpr int kCompressWarps = 4;
constexpr int kLanesPerToken = 8;

// The sum over the eight lanes of a token.
__device__ __forceinline__ int TokenSum(int x) {
#pragma unroll
  for (int d = 1; d < kLanesPerToken; d *= 2) x += __shfl_xor_sync(kFullMask, x, d);
  return x;
}

// The sum over the token's lanes before this one.
__device__ __forceinline__ int TokenSumBefore(int x) {
  const int lane = threadIdx.x % kLanesPerToken;
  int sum = x;
#pragma unroll
  for (int d = 1; d < kLanesPerToken; d *= 2) {
    const int below = __shfl_up_sync(kFullMask, sum, d, kLanesPerToken);
    if (lane >= d) sum += below;
  }
  return sum - x;
}

// The values of a lane: two 16-bit values a word.
template <int D>
struct LaneValues {
  static constexpr int kWords = D / kLanesPerToken / 2;
  uint32_t x[kWords];

  __device__ __forceinline__ void Load(const uint16_t* token) {
    const uint64_t* const from =
        reinterpret_cast<const uint64_t*>(token + threadIdx.x % kLanesPerToken * (2 * kWords));
#pragma unroll
    for (int i = 0; i < kWords / 2; ++i) {
      const uint64_t two = from[i];
      x[2 * i] = static_cast<uint32_t>(two);
      x[2 * i + 1] = static_cast<uint32_t>(two >> 32);
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kWords; ++i) x[i] = 0;
  }

  // Bit c: the magnitude of the lane's channel c is at least `least` (1 to 0x8000).
  __device__ __forceinline__ uint32_t AtLeast(uint32_t least) const {
    const uint32_t both = least * 0x10001u;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      // The top bit of each half word keeps the other half word out of its difference.
      const uint32_t difference = (x[i] | 0x80008000u) - both;
      const uint32_t there = difference >> 15 & 0x00010001u;
      bits |= (there | there >> 15) << 2 * i;
    }
    return bits & ((1u << 2 * kWords) - 1);
  }

  // How many of the lane's magnitudes are at least `least`. `signed_x`: x with all signs set.
  __device__ __forceinline__ static int CountAtLeast(const uint32_t (&signed_x)[kWords],
                                                     uint32_t least) {
    constexpr uint32_t kTopBits = 0xfdb9;  // the top bit of bytes 1, 3, 5, 7, eight times each
    const uint32_t both = least * 0x10001u;
    int count = 0;
#pragma unroll
    for (int i = 0; i < kWords; i += 2) {
      const uint32_t a = signed_x[i] - both, b = signed_x[i + 1] - both;
      count = __dp4a(static_cast<int>(Permute(a, b, kTopBits)), 0x01010101, count);
    }
    return -count;  // a byte of ones is -1
  }

  // Which of the lane's channels are among the `kept` largest of the token, and whether zeros may
  // be among those of the warp.
  __device__ __forceinline__ uint32_t Largest(int kept, bool* zeros) const {
    uint32_t signed_x[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      signed_x[i] = x[i] | 0x80008000u;
      asm volatile("" : "+r"(signed_x[i]));  // else it is computed anew in every step
    }
    // The largest magnitude that at least `kept` channels reach; 0 is reached by all.
    uint32_t level = 0;
    bool found = kept == D;
#pragma unroll 1
    for (uint32_t bit = 0x4000; bit != 0; bit >>= 1) {
      const int count = TokenSum(CountAtLeast(signed_x, level | bit));
      if (count >= kept) level |= bit;
      found = found || count == kept;
      if (__all_sync(kFullMask, found)) break;
    }
    *zeros = __any_sync(kFullMask, level == 0);
    if (!*zeros && __all_sync(kFullMask, found)) return AtLeast(level);
    const uint32_t above = AtLeast(level + 1);
    const uint32_t all = (1u << 2 * kWords) - 1;
    const uint32_t equal = (level == 0 ? all : AtLeast(level)) & ~above;
    // The lowest of the equal ones, as many as are still to be had.
    const int wanted = kept - TokenSum(__popc(above)) - TokenSumBefore(__popc(equal));
    uint32_t stay = above, rest = equal;
#pragma unroll 1
    for (int i = 0; i < wanted && rest != 0; ++i) {
      stay |= rest & -rest;
      rest &= rest - 1;
    }
    return stay;
  }

  __device__ __forceinline__ void ClearMinusZeros() {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if ((x[i] & 0x7fff) == 0) x[i] &= 0xffff0000u;
      if ((x[i] & 0x7fff0000u) == 0) x[i] &= 0xffff;
    }
  }

  // Writes the channels in `stay` one behind the other.
  __device__ __forceinline__ void Pack(uint32_t stay, uint16_t* to) const {
    to += TokenSumBefore(__popc(stay));
#pragma unroll
    for (int c = 0; c < 2 * kWords; ++c) {
      if (stay >> c & 1) *to++ = static_cast<uint16_t>(x[c / 2] >> c % 2 * 16);
    }
  }
};

// Shared memory of a warp: the bitmaps and values of a unit, as they lie in a page.
template <int D>
constexpr int PackedUnitBytes() {
  return kUnitTokens * (D / 8 + 2 * D);
}

// Compresses tokens 0 .. rows - 1 of a unit of 16, `token(i)` being the address of the dense token,
// to `bitmaps` (or nowhere) and `values`, their places in the page. By a whole warp.
template <int D, class Token>
__device__ __forceinline__ void CompressUnit(const Token& token, int rows, uint32_t* bitmaps,
                                             uint16_t* values, int kept, char* shared) {
  constexpr int kBits = D / kLanesPerToken;
  const int lane = threadIdx.x % kWarpSize, part = lane % kLanesPerToken;
  auto* const bits = reinterpret_cast<uint8_t*>(shared);
  auto* const packed = reinterpret_cast<uint16_t*>(shared + kUnitTokens * D / 8);
  for (int i = lane / kLanesPerToken; i < kUnitTokens; i += kWarpSize / kLanesPerToken) {
    LaneValues<D> x;
    if (i < rows) {
      x.Load(token(i));
    } else {
      x.Clear();
    }
    bool zeros = true;
    const uint32_t stay = kept == D ? (1u << kBits) - 1 : x.Largest(kept, &zeros);
    if (zeros) x.ClearMinusZeros();
    x.Pack(stay, packed + i * kept);
    // Two lanes may share a byte (12 bits each): the even one writes both parts.
    const uint32_t next = __shfl_down_sync(kFullMask, stay, 1);
    const uint32_t pair = stay | next << kBits;
    if (part % 2 == 0) {
      for (int b = 0; b < 2 * kBits / 8; ++b) {
        bits[i * (D / 8) + part * kBits / 8 + b] = static_cast<uint8_t>(pair >> 8 * b);
      }
    }
  }
  __syncwarp();
  if (bitmaps != nullptr) {
    const auto* const words = reinterpret_cast<const uint32_t*>(bits);
    for (int i = lane; i < rows * (D / 32); i += kWarpSize) bitmaps[i] = words[i];
  }
  if (reinterpret_cast<uintptr_t>(values) % 4 == 0) {
    const int count = rows * kept;
    const auto* const words = reinterpret_cast<const uint32_t*>(packed);
    auto* const to = reinterpret_cast<uint32_t*>(values);
    for (int i = lane; i < count / 2; i += kWarpSize) to[i] = words[i];
    if (count % 2 != 0 && lane == 0) values[count - 1] = packed[count - 1];
  } else {
    for (int i = lane; i < rows * kept; i += kWarpSize) values[i] = packed[i];
  }
  __syncwarp();
}

}  // namespace accel::mustafar
