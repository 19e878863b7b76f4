// File: native_passes.cu
//
// The passes over large batches, and lookups, compiled once for all instantiations (launch.cuh).
#define HKV_KERNELS_INLINE
#include "csrc/hkv/passes_launch.cuh"
