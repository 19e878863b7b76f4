// File: native_upsert.cu
//
// The kernel of every call that writes by key, compiled once for all instantiations (launch.cuh).
#define HKV_KERNELS_INLINE
#include "csrc/hkv/upsert_launch.cuh"
