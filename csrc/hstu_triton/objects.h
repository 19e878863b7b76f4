// File: objects.h
//
// The kernels that Triton compiled when this library was built (rows.bzl), as the table that
// //tools/triton writes has them.
#pragma once

#include <cstdint>

namespace accel::triton {

struct Object {
  const char* name;      // of the row: "norm_fwd.bf16.256"
  const char* function;  // the kernel's, inside the image
  const char*
      parameters;  // "X:p stride_x:I eps:f ": name and kind of each, in order; I: multiple of 16
  const char* constants;  // "BLOCK_M=64 BLOCK_N=64 ": what the kernel was compiled for
  const uint8_t* image;   // a cubin, or for arch 0 PTX of compute capability 8.0
  uint64_t bytes;
  int32_t arch;  // 80, 90, or 0
  int32_t shared;
  int32_t threads;
  int32_t reserved;  // the size is a multiple of 8
};

extern "C" const Object hstu_triton_objects[];
extern "C" const uint64_t hstu_triton_object_count;

}  // namespace accel::triton
