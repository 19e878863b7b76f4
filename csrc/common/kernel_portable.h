// File: kernel_portable.h
//
// What a kernel sees of the machine that it runs on: one source for every kind of device, which is
// a branch here and nowhere else.
//
// - Blocks and grids have one dimension. ACCEL_KERNEL(threads) declares a kernel, whose one
//   argument is a plain struct by value; ACCEL_KERNEL(threads, blocks) one of which so many blocks
//   fit into a multiprocessor of NVIDIA's; ACCEL_DEVICE a function of a kernel, ACCEL_SHARED an
//   array of the block.
// - A group is 32 lanes of a block on every machine, however wide its waves are. All of a group's
//   lanes take part in a shuffle.
// - 16-bit floats are bits, computed with as float.
#pragma once

#include <cstdint>
#include <type_traits>

#include "csrc/common/portable.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define ACCEL_KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define ACCEL_DEVICE __device__ __forceinline__
#define ACCEL_SHARED __shared__
#define ACCEL_IN_FLIGHT 8
#elif defined(__HIP__)  // clang -x hip without HIP's headers: what it has of its own is enough
#define ACCEL_THREADS(threads, ...) threads
#define ACCEL_KERNEL(...)                                                        \
  extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size( \
      ACCEL_THREADS(__VA_ARGS__, ), ACCEL_THREADS(__VA_ARGS__, )))) void
#define ACCEL_DEVICE inline __attribute__((device, always_inline))
#define ACCEL_SHARED __attribute__((shared))
#define ACCEL_IN_FLIGHT 1  // waves hide latency where each has few registers
#else                      // on the host, for tests
#include <cmath>

#include "csrc/common/half.h"
#include "csrc/common/host_block.h"
#define ACCEL_KERNEL(...) extern "C" void
#define ACCEL_DEVICE inline
#define ACCEL_SHARED static ACCEL_HOST_SHARED
#define ACCEL_IN_FLIGHT 1
#endif

namespace accel {

constexpr int kGroup = 32;                  // lanes of a group
constexpr int kInFlight = ACCEL_IN_FLIGHT;  // rows that a thread loads before it uses the first

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// N 32-bit words that are loaded and stored at once; the address is a multiple of their size.
template <int N>
struct alignas(4 * N) Words {
  static_assert(N == 1 || N == 2 || N == 4, "4, 8 or 16 bytes");
  uint32_t word[N];
};

#if defined(__CUDACC__)

ACCEL_DEVICE int ThreadId() { return static_cast<int>(threadIdx.x); }
ACCEL_DEVICE int64_t BlockId() { return blockIdx.x; }
ACCEL_DEVICE void Barrier() { __syncthreads(); }

// The value of another lane of the group, of 4 or 8 bytes.
template <class T>
ACCEL_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffff, value, lane);
}

ACCEL_DEVICE uint32_t OrOfGroup(uint32_t bits) { return __reduce_or_sync(0xffffffff, bits); }
ACCEL_DEVICE uint32_t Ballot(bool yes) { return __ballot_sync(0xffffffff, yes); }
ACCEL_DEVICE int CountBits(uint32_t bits) { return __popc(bits); }

ACCEL_DEVICE float Exp(float x) { return __expf(x); }
ACCEL_DEVICE float Divide(float a, float b) { return __fdividef(a, b); }
ACCEL_DEVICE float Fma(float a, float b, float c) { return fmaf(a, b, c); }
// x / (1 + exp(-x)) to 2^-12 of x, by one instruction where Exp and Divide take two slow ones.
ACCEL_DEVICE float NearSilu(float x) { return fmaf(0.5f * x, __tanhf(0.5f * x), 0.5f * x); }
ACCEL_DEVICE float NearTanh(float x) { return __tanhf(x); }  // to 2^-11
ACCEL_DEVICE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }
ACCEL_DEVICE uint32_t BitsOf(float x) { return __float_as_uint(x); }

template <int N>
ACCEL_DEVICE Words<N> LoadWords(const void* from) {
  Words<N> w;
  if constexpr (N == 4) {
    const uint4 v = *static_cast<const uint4*>(from);
    w.word[0] = v.x, w.word[1] = v.y, w.word[2] = v.z, w.word[3] = v.w;
  } else if constexpr (N == 2) {
    const uint2 v = *static_cast<const uint2*>(from);
    w.word[0] = v.x, w.word[1] = v.y;
  } else {
    w.word[0] = *static_cast<const uint32_t*>(from);
  }
  return w;
}

template <int N>
ACCEL_DEVICE void StoreWords(void* to, const Words<N>& w) {
  // By intrinsics: the compiler cuts what it calls a uint4 into words where it likes.
  if constexpr (N == 4) {
    __stcs(static_cast<uint4*>(to), make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]));
  } else if constexpr (N == 2) {
    __stcs(static_cast<uint2*>(to), make_uint2(w.word[0], w.word[1]));
  } else {
    __stcs(static_cast<uint32_t*>(to), w.word[0]);
  }
}

ACCEL_DEVICE float ToFloat(Half x) { return __half2float(__ushort_as_half(x.bits)); }
ACCEL_DEVICE float ToFloat(BFloat16 x) { return FloatOf(static_cast<uint32_t>(x.bits) << 16); }
ACCEL_DEVICE void FromFloat(float x, Half* to) { to->bits = __half_as_ushort(__float2half_rn(x)); }
ACCEL_DEVICE void FromFloat(float x, BFloat16* to) {
  to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

// Two at once, the first in the low half.
ACCEL_DEVICE uint32_t Pack(float low, float high, const Half&) {
  const __half2 h = __floats2half2_rn(low, high);
  return static_cast<uint32_t>(__half_as_ushort(__high2half(h))) << 16 |
         __half_as_ushort(__low2half(h));
}
ACCEL_DEVICE uint32_t Pack(float low, float high, const BFloat16&) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
  return static_cast<uint32_t>(__bfloat16_as_ushort(__high2bfloat16(h))) << 16 |
         __bfloat16_as_ushort(__low2bfloat16(h));
}

#elif defined(__HIP__)

ACCEL_DEVICE int ThreadId() { return static_cast<int>(__builtin_amdgcn_workitem_id_x()); }
ACCEL_DEVICE int64_t BlockId() { return __builtin_amdgcn_workgroup_id_x(); }
ACCEL_DEVICE void Barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

// This thread's place among the 32 or 64 lanes of the hardware.
ACCEL_DEVICE int WaveLane() {
  return static_cast<int>(__builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0)));
}

ACCEL_DEVICE uint32_t WavePermute(uint32_t value, int lane) {
  return static_cast<uint32_t>(__builtin_amdgcn_ds_bpermute(lane * 4, static_cast<int>(value)));
}
ACCEL_DEVICE uint64_t WavePermute(uint64_t value, int lane) {
  const uint64_t high = WavePermute(static_cast<uint32_t>(value >> 32), lane);
  return high << 32 | WavePermute(static_cast<uint32_t>(value), lane);
}

ACCEL_DEVICE float FloatOf(uint32_t bits) { return __builtin_bit_cast(float, bits); }
ACCEL_DEVICE uint32_t BitsOf(float x) { return __builtin_bit_cast(uint32_t, x); }
ACCEL_DEVICE float Exp(float x) { return __builtin_amdgcn_exp2f(x * 1.44269504f); }
ACCEL_DEVICE float Divide(float a, float b) { return a * __builtin_amdgcn_rcpf(b); }
ACCEL_DEVICE float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

template <int N>
ACCEL_DEVICE Words<N> LoadWords(const void* from) {
  typedef uint32_t Vector __attribute__((ext_vector_type(N)));
  return __builtin_bit_cast(Words<N>, *static_cast<const Vector*>(from));
}

template <int N>
ACCEL_DEVICE void StoreWords(void* to, const Words<N>& w) {
  typedef uint32_t Vector __attribute__((ext_vector_type(N)));
  *static_cast<Vector*>(to) = __builtin_bit_cast(Vector, w);
}

ACCEL_DEVICE float ToFloat(Half x) { return __builtin_bit_cast(_Float16, x.bits); }
ACCEL_DEVICE uint16_t RoundedToHalf(float x) {
  return __builtin_bit_cast(uint16_t, static_cast<_Float16>(x));
}
ACCEL_DEVICE uint16_t RoundedToBFloat16(float x) {
  const uint32_t bits = BitsOf(x);
  return x == x ? static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fff;
}

#else

ACCEL_DEVICE int ThreadId() { return HostBlock::Current().thread(); }
ACCEL_DEVICE int64_t BlockId() { return HostBlock::Current().block(); }
ACCEL_DEVICE void Barrier() { HostBlock::Current().Barrier(); }
ACCEL_DEVICE int WaveLane() { return HostBlock::Current().wave_lane(); }

template <class Bits>
ACCEL_DEVICE Bits WavePermute(Bits value, int lane) {
  return static_cast<Bits>(HostBlock::Current().Exchange(value, lane));
}

ACCEL_DEVICE float FloatOf(uint32_t bits) { return FloatOfBits(bits); }
ACCEL_DEVICE float Exp(float x) { return std::exp(x); }
ACCEL_DEVICE float Divide(float a, float b) { return a / b; }
ACCEL_DEVICE float Fma(float a, float b, float c) { return std::fma(a, b, c); }
ACCEL_DEVICE double Exp(double x) { return std::exp(x); }  // doubles are the host's alone
ACCEL_DEVICE double Divide(double a, double b) { return a / b; }
ACCEL_DEVICE double Fma(double a, double b, double c) { return std::fma(a, b, c); }

template <int N>
ACCEL_DEVICE Words<N> LoadWords(const void* from) {
  return *static_cast<const Words<N>*>(from);
}

template <int N>
ACCEL_DEVICE void StoreWords(void* to, const Words<N>& w) {
  *static_cast<Words<N>*>(to) = w;
}

ACCEL_DEVICE float ToFloat(Half x) { return Float16ToFloat(x.bits); }
ACCEL_DEVICE uint16_t RoundedToHalf(float x) { return FloatToFloat16(x); }
ACCEL_DEVICE uint16_t RoundedToBFloat16(float x) { return FloatToBFloat16(x); }

#endif

#ifndef __CUDACC__

ACCEL_DEVICE float NearSilu(float x) { return Divide(x, 1.0f + Exp(-x)); }
ACCEL_DEVICE float NearTanh(float x) { return 1.0f - Divide(2.0f, 1.0f + Exp(2.0f * x)); }

// The group's lanes are 32 neighbours of a wave: where it begins, the hardware's lane says.
template <class T>
ACCEL_DEVICE T Shuffle(T value, int lane) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  const int from = (WaveLane() & ~(kGroup - 1)) | (lane & (kGroup - 1));
  return __builtin_bit_cast(T, WavePermute(__builtin_bit_cast(Bits, value), from));
}

// The bits that any lane of the group has.
ACCEL_DEVICE uint32_t OrOfGroup(uint32_t bits) {
#pragma unroll
  for (int d = kGroup / 2; d > 0; d /= 2) bits |= Shuffle(bits, (WaveLane() & (kGroup - 1)) ^ d);
  return bits;
}

// Bit i: what lane i of the group says.
ACCEL_DEVICE uint32_t Ballot(bool yes) {
  return OrOfGroup(static_cast<uint32_t>(yes) << (WaveLane() & (kGroup - 1)));
}
ACCEL_DEVICE int CountBits(uint32_t bits) { return __builtin_popcount(bits); }

ACCEL_DEVICE float ToFloat(BFloat16 x) { return FloatOf(static_cast<uint32_t>(x.bits) << 16); }
ACCEL_DEVICE void FromFloat(float x, Half* to) { to->bits = RoundedToHalf(x); }
ACCEL_DEVICE void FromFloat(float x, BFloat16* to) { to->bits = RoundedToBFloat16(x); }
ACCEL_DEVICE uint32_t Pack(float low, float high, const Half&) {
  return static_cast<uint32_t>(RoundedToHalf(high)) << 16 | RoundedToHalf(low);
}
ACCEL_DEVICE uint32_t Pack(float low, float high, const BFloat16&) {
  return static_cast<uint32_t>(RoundedToBFloat16(high)) << 16 | RoundedToBFloat16(low);
}

#endif

// ---- The same on every machine

// This thread's place in its group.
ACCEL_DEVICE int Lane() { return ThreadId() % kGroup; }

// Which group of its block this thread is of; the compiler sees that all of the group agree.
ACCEL_DEVICE int Group() { return Shuffle(ThreadId() / kGroup, 0); }

// The value of the lane so many places below; where there is none, anything.
template <class T>
ACCEL_DEVICE T ShuffleUp(T value, int places) {
  return Shuffle(value, (Lane() - places) & (kGroup - 1));
}

// The value of the lane so many places above; where there is none, anything.
template <class T>
ACCEL_DEVICE T ShuffleDown(T value, int places) {
  return Shuffle(value, (Lane() + places) & (kGroup - 1));
}

ACCEL_DEVICE float ToFloat(float x) { return x; }
ACCEL_DEVICE double ToFloat(double x) { return x; }
ACCEL_DEVICE void FromFloat(float x, float* to) { *to = x; }
ACCEL_DEVICE void FromFloat(double x, double* to) { *to = x; }

// Of a word with two.
ACCEL_DEVICE float Low(uint32_t word, const Half&) {
  return ToFloat(Half{static_cast<uint16_t>(word)});
}
ACCEL_DEVICE float High(uint32_t word, const Half&) {
  return ToFloat(Half{static_cast<uint16_t>(word >> 16)});
}
ACCEL_DEVICE float Low(uint32_t word, const BFloat16&) { return FloatOf(word << 16); }
ACCEL_DEVICE float High(uint32_t word, const BFloat16&) { return FloatOf(word & 0xffff0000u); }

}  // namespace accel
