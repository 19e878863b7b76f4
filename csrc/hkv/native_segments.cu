// File: native_segments.cu
//
// The calls over many GPU tables, compiled once for all instantiations: they know no types.
#define HKV_SEGMENTS_INLINE
#include "csrc/hkv/segments.cuh"
