// File: expand.cuh
//
// From packed values in shared memory to fragments of mma.sync, in registers.
//
// Four channels (a nibble of the bitmap) are two registers. The values that are there lie side by
// side from some half word on: two words are read, shifted into place, and a byte permute puts
// each value where its bit says. Where not all four are there, the window's last half word is
// cleared, and is the zero of those that are not. The permutes' selectors are a table of 16 entries
// that the lanes of a warp hold together.
#pragma once

#include <cstdint>

#include "csrc/common/warp.cuh"

namespace accel::mustafar {

constexpr uint32_t kAllFour = 0x76543210;  // the entry of nibble 15 alone: zeros are 0x77

// The table's entry of this lane, that of nibble lane % 16: the selectors of channels 0, 1 (low
// half) and 2, 3 (high half).
__device__ __forceinline__ uint32_t SelectorEntry() {
  const unsigned nibble = threadIdx.x % 16;
  uint32_t entry = 0, next = 0;
  for (int c = 0; c < 4; ++c) {
    const bool there = nibble >> c & 1;
    entry |= (there ? 2 * next | (2 * next + 1) << 4 : 0x77u) << 8 * c;
    next += there;
  }
  // What comes from a lane, be it this one, the compiler does not compute anew in every round.
  return __shfl_sync(kFullMask, entry, threadIdx.x);
}

__device__ __forceinline__ uint32_t Permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;  // the intrinsic would mask the selector first
  asm("prmt.b32 %0, %1, %2, %3;\n" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

template <int kOffset = 0>
__device__ __forceinline__ uint32_t LoadWord(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1+%2];\n" : "=r"(v) : "r"(address), "n"(kOffset));
  return v;
}

// Four nibbles, nibble[i] of bits[i], whose values begin at the shared-memory addresses start[i]:
// lo = channels 0, 1, hi = channels 2, 3 of each. Four at a time, so that loads wait for each
// other. `nibble` are constants of unrolled code.
__device__ __forceinline__ void Expand(const uint32_t (&bits)[4], const int (&nibble)[4],
                                       const uint32_t (&start)[4], uint32_t table,
                                       uint32_t (&lo)[4], uint32_t (&hi)[4]) {
  uint32_t selectors[4], shift[4], word[4], w0[4], w1[4], w2[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Of the index only the low four bits count.
    selectors[i] = __shfl_sync(kFullMask, table, bits[i] >> 4 * nibble[i], 16);
    // The bits below by a shift to the left: the multipliers do it, which have less to do than the
    // units that mask.
    const uint32_t below = nibble[i] == 0 ? 0 : bits[i] << (32 - 4 * nibble[i]);
    const uint32_t at = start[i] + 2 * __popc(below);
    word[i] = at & ~3u;
    shift[i] = at * 8;  // 0 or 16, modulo 32
    w2[i] = at;         // anything
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    w0[i] = LoadWord(word[i]);
    w1[i] = LoadWord<4>(word[i]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm volatile(
        "{\n"
        ".reg .pred all;\n"
        "setp.eq.u32 all, %1, %2;\n"
        "@all ld.shared.b32 %0, [%3+8];\n"
        "}\n"
        : "+r"(w2[i])
        : "r"(selectors[i]), "n"(kAllFour), "r"(word[i]));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t x0 = __funnelshift_r(w0[i], w1[i], shift[i]);
    uint32_t x1 = __funnelshift_r(w1[i], w2[i], shift[i]);
    asm("{\n"
        ".reg .pred all;\n"
        "setp.eq.u32 all, %1, %2;\n"
        "@!all and.b32 %0, %0, 0xffff;\n"
        "}\n"
        : "+r"(x1)
        : "r"(selectors[i]), "n"(kAllFour));
    lo[i] = Permute(x0, x1, selectors[i]);
    hi[i] = Permute(x0, x1, selectors[i] >> 16);
  }
}

// Bits first .. first + kCount - 1 of a bitmap at a shared-memory address.
template <int kCount>
__device__ __forceinline__ uint32_t LoadBits(uint32_t bitmap, int first) {
  const uint32_t word = bitmap + first / 32 * 4;
  uint32_t bits = LoadWord(word);
  if constexpr (kCount == 32) return bits;
  // A run may go on in the next word. Behind the last word other bits are read, and cut off.
  if constexpr (32 % kCount != 0) {
    bits = __funnelshift_r(bits, LoadWord<4>(word), first % 32);
  } else {
    bits >>= first % 32;
  }
  return bits & (0xffffffffu >> (32 - kCount));
}

}  // namespace accel::mustafar
