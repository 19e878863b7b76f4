// File: kernels.h
//
// The arguments of kernels.cu.
#pragma once

#include <cstdint>

namespace accel_test {

struct Neighbours {
  const float* x;
  float* y;
};

struct WordsArguments {
  const char* in;  // count * 16 bytes, as all but the last two
  char* half;
  char* bfloat;
  char* out;
  uint16_t* narrow;
  uint64_t* wide;
  int64_t count;
};

}  // namespace accel_test
