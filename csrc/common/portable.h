// File: portable.h
//
// What host and device code write alike, whatever compiles it. A further kind of device is a
// further branch here.
#pragma once

#if defined(__CUDACC__)
#define ACCEL_HD __host__ __device__ __forceinline__
#else
#define ACCEL_HD inline
#endif

namespace accel {

template <class T>
ACCEL_HD constexpr T Min(T a, T b) {
  return a < b ? a : b;
}

template <class T>
ACCEL_HD constexpr T Max(T a, T b) {
  return a > b ? a : b;
}

// a / b, rounded up. a >= 0, b > 0, and a + b - 1 fits into T.
template <class T>
ACCEL_HD constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace accel
