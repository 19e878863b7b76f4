// File: scale.h
//
// The torch-free side of the small package that tests/build builds in seconds.
#pragma once

#include <cstdint>

namespace small {
// out[i] = alpha * x[i] for i < n, on `stream` (a cudaStream_t). Returns a cudaError_t.
int scale(const float* x, float* out, int64_t n, float alpha, void* stream);
}  // namespace small
