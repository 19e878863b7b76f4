// File: expand.cuh
//
// From packed values in shared memory to fragments of mma.sync, in registers.
//
// Where the values of a run of channels begin, the tensor cores count: bitmaps times prefixes, bits
// of both, is how many bits a token has in front of a channel. A value is then fetched by a load of
// its own, if its bit is set, to the low half of a register that was zero. Such a register is an
// operand of the product as it is, of one channel where two would have a place: the product has
// room for that, and putting halves together would cost more.
#pragma once

#include <cstdint>

#include "csrc/common/warp.cuh"

namespace accel::mustafar {

// What byte permutes do: of eight bytes, those that the selector's nibbles name.
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

// Where a lane's bits of values begin: bits 0, 7 and 15 would take more instructions to be tested.
constexpr int kValuesFrom = 16;

// Word `word` of the bits below bit `end` of a bitmap.
__device__ __forceinline__ uint32_t PrefixWord(int end, int word) {
  const int bits = end - 32 * word;
  return bits >= 32 ? 0xffffffffu : bits <= 0 ? 0 : (1u << bits) - 1;
}

// Addresses of 16-bit values: twice the bits that rows of A (16 x 128: rows g and g + 8, word t)
// and columns of B (128 x 8: column g, word t) share, added to c.
__device__ __forceinline__ void CountTwice(uint32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b,
                                           const uint32_t (&c)[4]) {
  asm("{\n"
      ".reg .b32 d0, d1, d2, d3;\n"
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {d0, d1, d2, d3}, {%4, %5}, {%6}, "
      "{%7, %8, %9, %10};\n"
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{d0, d1, d2, d3};\n"
      "}\n"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

// Four channels, one a register: their bits are kFirst .. kFirst + 3 of `bits`, their values begin
// at `at`.
template <int kFirst>
__device__ __forceinline__ void Expand(uint32_t bits, uint32_t at, uint32_t (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[i] = 0;
    if (bits & 1u << (kFirst + i)) {
      asm volatile("ld.shared.u16 %0, [%1];\n" : "=r"(x[i]) : "r"(at));
      at += 2;
    }
  }
}

// Bits first .. first + kCount - 1 of a bitmap at a shared-memory address, from bit kTo on.
template <int kCount, int kTo>
__device__ __forceinline__ uint32_t LoadBits(uint32_t bitmap, int first) {
  const uint32_t word = bitmap + first / 32 * 4;
  const uint32_t bits = LoadWord(word);
  // A run may go on in the next word. Behind the last word other bits are read.
  if constexpr (32 % kCount != 0) {
    return __funnelshift_r(bits, LoadWord<4>(word), first % 32) << kTo;
  }
  return __funnelshift_l(bits, bits, kTo - first);
}

}  // namespace accel::mustafar
