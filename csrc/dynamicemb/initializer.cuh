// File: initializer.cuh
//
// The first row of a key. A value depends on the table's seed, the key and the column alone: the
// counter of the generator is (key, column / 4), its key is the seed. Host and GPU give the same
// bits: only additions, multiplications, fused multiply-adds, divisions and square roots are used,
// each rounded once on both, and the compiler fuses none of them.
//
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
// Normal numbers: the inverse of the distribution, by Giles, "Approximating the erfinv function"
// (2010), single precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "csrc/common/portable.h"
#include "csrc/dynamicemb/dynamicemb.h"

namespace accel::dynamicemb {

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float Mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float Add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float Div(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ float Sqrt(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ uint32_t Bits(float a) { return __float_as_uint(a); }
__device__ __forceinline__ float OfBits(uint32_t a) { return __uint_as_float(a); }
#else
inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float Mul(float a, float b) { return a * b; }
inline float Add(float a, float b) { return a + b; }
inline float Div(float a, float b) { return a / b; }
inline float Sqrt(float a) { return std::sqrt(a); }
inline uint32_t Bits(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, 4);
  return bits;
}
inline float OfBits(uint32_t bits) {
  float a;
  std::memcpy(&a, &bits, 4);
  return a;
}
#endif

struct Random4 {
  uint32_t word[4];
};

ACCEL_HD Random4 Philox(uint64_t seed, uint64_t key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(key), c1 = static_cast<uint32_t>(key >> 32);
  uint32_t c2 = static_cast<uint32_t>(block), c3 = static_cast<uint32_t>(block >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// Natural logarithm of a positive normal number, within 2 units in the last place of 1.
ACCEL_HD float Log(float x) {
  uint32_t bits = Bits(x);
  int exponent = static_cast<int>(bits >> 23) - 127;
  float m = OfBits((bits & 0x7fffff) | 0x3f800000);  // [1, 2)
  if (m > 1.41421356f) {
    m = Mul(m, 0.5f);
    ++exponent;
  }
  // 2 atanh(s) with s = (m - 1) / (m + 1), |s| < 0.1716
  const float s = Div(Add(m, -1.0f), Add(m, 1.0f));
  const float z = Mul(s, s);
  float p = 0.11111111f;
  p = Fma(p, z, 0.14285715f);
  p = Fma(p, z, 0.2f);
  p = Fma(p, z, 0.33333333f);
  p = Mul(Mul(p, z), Add(s, s));
  return Fma(static_cast<float>(exponent), 0.69314718f, Add(p, Add(s, s)));
}

ACCEL_HD float InverseErf(float x) {
  float w = -Log(Mul(Add(1.0f, -x), Add(1.0f, x)));
  float p;
  if (w < 5.0f) {
    w = Add(w, -2.5f);
    p = 2.81022636e-08f;
    p = Fma(p, w, 3.43273939e-07f);
    p = Fma(p, w, -3.5233877e-06f);
    p = Fma(p, w, -4.39150654e-06f);
    p = Fma(p, w, 0.00021858087f);
    p = Fma(p, w, -0.00125372503f);
    p = Fma(p, w, -0.00417768164f);
    p = Fma(p, w, 0.246640727f);
    p = Fma(p, w, 1.50140941f);
  } else {
    w = Add(Sqrt(w), -3.0f);
    p = -0.000200214257f;
    p = Fma(p, w, 0.000100950558f);
    p = Fma(p, w, 0.00134934322f);
    p = Fma(p, w, -0.00367342844f);
    p = Fma(p, w, 0.00573950773f);
    p = Fma(p, w, -0.0076224613f);
    p = Fma(p, w, 0.00943887047f);
    p = Fma(p, w, 1.00167406f);
    p = Fma(p, w, 2.83297682f);
  }
  return Mul(p, x);
}

// The first values of the columns 4 * block ... 4 * block + 3.
ACCEL_HD void InitialValues(const RowInfo& info, int64_t key, int64_t block, float* values) {
  const auto mode = static_cast<InitMode>(info.init_mode);
  if (mode == InitMode::kConstant || mode == InitMode::kDebug) {
    const int64_t rest = key % 100000;
    const float value = mode == InitMode::kConstant
                            ? static_cast<float>(info.init[0])
                            : static_cast<float>(rest < 0 ? rest + 100000 : rest);
    for (int j = 0; j < 4; ++j) values[j] = value;
    return;
  }
  const Random4 random = Philox(static_cast<uint64_t>(info.seed), static_cast<uint64_t>(key),
                                static_cast<uint64_t>(block));
  const float a = static_cast<float>(info.init[0]), b = static_cast<float>(info.init[1]);
  const float low = static_cast<float>(info.init[2]), high = static_cast<float>(info.init[3]);
  for (int j = 0; j < 4; ++j) {
    const float whole = static_cast<float>(random.word[j] >> 8);
    if (mode == InitMode::kUniform) {
      values[j] = Fma(Mul(whole, 0x1p-24f), Add(b, -a), a);
      continue;
    }
    float x = Fma(Mul(Add(whole, 0.5f), 0x1p-24f), Add(high, -low), low);
    constexpr float kMost = 1.0f - 0x1p-23f;
    x = Max(-kMost, Min(kMost, x));
    values[j] = Fma(Mul(b, 1.41421356f), InverseErf(x), a);
  }
}

}  // namespace accel::dynamicemb
