// File: native_segments.cu
//
// The calls over many GPU tables, compiled once for all instantiations (launch.cuh).
#define HKV_KERNELS_INLINE
#include "csrc/hkv/segments.cuh"
