// File: sm80_tile.cuh
//
// What kernels on the tensor cores are made of: a swizzled tile in shared memory, asynchronous
// copies into it, fragments out of it, the tensor-core product, and SiLU. SM80 instructions only
// (cp.async, ldmatrix, mma.sync), so one text serves sm_80 and later.
//
// Fragments of mma.m16n8k16 (g = lane / 4, t = lane % 4; every register holds two 16-bit values):
//   A (16 x 16): a0 = (g, 2t)  a1 = (g + 8, 2t)  a2 = (g, 2t + 8)  a3 = (g + 8, 2t + 8)
//   B (16 x 8):  b0 = (2t, g)  b1 = (2t + 8, g)
//   C (16 x 8):  c0, c1 = (g, 2t), (g, 2t + 1)   c2, c3 = (g + 8, 2t), (g + 8, 2t + 1)
// so two neighbouring C tiles, rounded to 16 bits, are one A fragment.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cute/arch/mma_sm80.hpp>
#include <cute/swizzle.hpp>
#include <type_traits>

#include "csrc/common/warp.cuh"

namespace accel {

constexpr int kChunkBytes = 16;  // one cp.async, one row of an 8 x 8 ldmatrix
constexpr int kChunkElems = kChunkBytes / 2;

// ---------------------------------------------------------------------------------------------
// Shared memory
// ---------------------------------------------------------------------------------------------

// A (kRows, kCols) tile of 16-bit values. 16-byte chunks are permuted within a row by an xor with
// the row's low bits, so that the eight rows of an 8 x 8 matrix lie in different banks. The tile
// must start at a multiple of 1024 bytes; then the chunk index can be xored into a finished
// address: Offset(r, c ^ x) == Offset(r, c) ^ (x * 16).
template <int kRows_, int kCols_>
struct SmemTile {
  static constexpr int kRows = kRows_;
  static constexpr int kCols = kCols_;
  static constexpr int kPitch = kCols * 2;  // bytes
  static constexpr int kBytes = kRows * kPitch;
  static constexpr int kChunks = kCols / kChunkElems;  // per row

  static_assert(kCols == 32 || kCols == 64 || kCols == 128 || kCols == 256, "a power of two");

  // Byte offsets: xor bits 4.. (chunk) with the row bits that distinguish eight rows of 128 bytes.
  using Swizzle = cute::conditional_t<
      kCols == 32, cute::Swizzle<2, 4, 3>,
      cute::conditional_t<
          kCols == 64, cute::Swizzle<3, 4, 3>,
          cute::conditional_t<kCols == 128, cute::Swizzle<3, 4, 4>, cute::Swizzle<3, 4, 5>>>>;

  __device__ __forceinline__ static uint32_t Offset(int row, int chunk) {
    return static_cast<uint32_t>(Swizzle::apply(row * kPitch + chunk * kChunkBytes));
  }
};

// threadIdx.x, read anew: what is derived from it must not live in registers across a loop.
__device__ __forceinline__ int ThreadInBlock() {
  int i;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(i));
  return i;
}

// The 32-bit shared-memory address of a pointer into shared memory.
__device__ __forceinline__ uint32_t SmemAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies `bytes` (0..16) from global `src` and fills the rest of the 16 bytes at `dst` with zeros.
// Both sides are 16-byte aligned; with bytes == 0 the source is not read, but let it be an address
// that could be: tools that watch memory may touch it.
__device__ __forceinline__ void CpAsync(uint32_t dst, const void* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(dst), "l"(src), "r"(bytes)
               : "memory");
}

// The same for what is read once: it leaves the L2 cache before other data does.
__device__ __forceinline__ void CpAsyncOnce(uint32_t dst, const void* src, int bytes) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(dst),
               "l"(src), "r"(bytes), "l"(policy)
               : "memory");
}

// CpAsync for whole chunks, by a predicated instruction rather than a branch.
__device__ __forceinline__ void CpAsyncIf(bool condition, uint32_t dst, const void* src) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %2, 0;\n"
      "@p cp.async.cg.shared.global [%0], [%1], 16;\n"
      "}\n" ::"r"(dst),
      "l"(src), "r"(static_cast<int>(condition))
      : "memory");
}

__device__ __forceinline__ void CpAsyncCommit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most kPending of this thread's groups are in flight.
template <int kPending>
__device__ __forceinline__ void CpAsyncWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Waits for all copies of this thread, in groups or not.
__device__ __forceinline__ void CpAsyncWaitAll() {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

__device__ __forceinline__ void StoreShared(uint32_t dst, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(dst), "r"(value) : "memory");
}

__device__ __forceinline__ void StoreShared(uint32_t dst, uint4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(dst), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}

__device__ __forceinline__ uint4 LoadShared(uint32_t src) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(src)
               : "memory");
  return v;
}

// ---------------------------------------------------------------------------------------------
// Fragments
// ---------------------------------------------------------------------------------------------

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void LdMatrixX4(uint32_t (&r)[4], uint32_t src) {
  asm volatile("ldmatrix.sync.aligned.x4.m8n8.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(src)
               : "memory");
}

__device__ __forceinline__ void LdMatrixX4Trans(uint32_t (&r)[4], uint32_t src) {
  asm volatile("ldmatrix.sync.aligned.x4.trans.m8n8.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(src)
               : "memory");
}

// Where this lane points for a 16 x 16 block at the tile's origin, as (row, chunk); add the block's
// rows to `row`, xor its chunks into the address.
struct LanePos {
  int row, chunk;
};

// r = an A fragment of a row-major (m, k) block. With _trans on a (k, m) block: see LaneKn.
__device__ __forceinline__ LanePos LaneMk(int lane) { return {lane & 15, lane >> 4}; }

// r[0..1], r[2..3] = the B fragments of rows 0..7 and 8..15 of an (n, k) block.
__device__ __forceinline__ LanePos LaneNk(int lane) {
  return {(lane & 7) | ((lane >> 4) << 3), (lane >> 3) & 1};
}

// With _trans: r[0..1], r[2..3] = the B fragments of columns 0..7 and 8..15 of a (k, n) block.
__device__ __forceinline__ LanePos LaneKn(int lane) { return {lane & 15, lane >> 4}; }

// With _trans: r = the A fragment (of the transpose) of a (k, m) block.
__device__ __forceinline__ LanePos LaneKm(int lane) {
  return {(lane & 7) | ((lane >> 4) << 3), (lane >> 3) & 1};
}

// d += a b, accumulated in fp32.
template <class T>
__device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    cute::SM80_16x8x16_F32BF16BF16F32_TN::fma(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b0,
                                              b1, d[0], d[1], d[2], d[3]);
  } else {
    static_assert(std::is_same_v<T, __half>, "bf16 or fp16");
    cute::SM80_16x8x16_F32F16F16F32_TN::fma(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b0, b1,
                                            d[0], d[1], d[2], d[3]);
  }
}

// ---------------------------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------------------------

// Two floats rounded to nearest, `lo` in the low half. fp16 saturates: an infinity would turn into
// NaN in the next product.
template <class T>
__device__ __forceinline__ uint32_t Pack(float lo, float hi) {
  uint32_t r;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    asm("min.f16x2 %0, %0, %1;\n" : "+r"(r) : "r"(0x7bff7bffu));
    asm("max.f16x2 %0, %0, %1;\n" : "+r"(r) : "r"(0xfbfffbffu));
  }
  return r;
}

template <class T>
__device__ __forceinline__ float2 Unpack(uint32_t v) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)};
  } else {
    return __half22float2(reinterpret_cast<const __half2&>(v));
  }
}

__device__ __forceinline__ float TanhApprox(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// SiLU(2h) = 2h * sigmoid(2h) = h + h * tanh(h): one special-function operation. Exactly 0 for
// h = 0 and for h far below 0.
__device__ __forceinline__ float SiluOfHalf(float h) { return fmaf(h, TanhApprox(h), h); }

}  // namespace accel
